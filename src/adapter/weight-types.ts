/**
 * How an adapter's weight is spread over the blocks of the diffusion model.
 *
 * Blocks are counted as "transformers", in the order in which they run: SD1.5 has 16, SDXL 11 (each of several blocks).
 *
 * Source: ComfyUI_IPAdapter_plus, weight types (tables restated, measured values in the golden files).
 */
import { InvalidRequestError } from '../common/errors.js';

export const WEIGHT_TYPES = [
  'linear',
  'ease in',
  'ease out',
  'ease in-out',
  'reverse in-out',
  'weak input',
  'weak output',
  'weak middle',
  'strong middle',
  'style transfer',
  'composition',
  'strong style transfer',
  'style and composition',
  'strong style and composition',
  'style transfer precise',
  'composition precise',
] as const;
export type WeightType = (typeof WEIGHT_TYPES)[number];

export type UnetModel = 'sd15' | 'sdxl';
type BlockKind = 'input' | 'middle' | 'output';

export interface WeightOptions {
  readonly model: UnetModel;
  readonly type: WeightType;
  readonly weight: number;
  /** For the types that treat composition apart; default 1, as in the reference's nodes. */
  readonly compositionWeight?: number | undefined;
  /** Of the turned layers in `style transfer precise`; default: the weight. */
  readonly styleBoost?: number | undefined;
  /** Of the turned layers in `composition precise`; default: the weight. */
  readonly compositionBoost?: number | undefined;
  /** `0:0.5, 3:1.5`: a factor per transformer, times the weight; others are left out. Goes before the type. */
  readonly layerWeights?: string | undefined;
}

export interface TransformerWeight {
  /** The unconditional half gets the conditional tokens here, and the conditional half zeros. */
  readonly isTurned: boolean;
  /** What the image attention is multiplied by; undefined: the adapter does not reach this transformer. */
  readonly weight: number | undefined;
}

interface Unet {
  readonly kinds: readonly BlockKind[];
  /** Transformers that carry style, and those that carry composition. */
  readonly style: readonly number[];
  readonly composition: readonly number[];
}

const kindsOf = (inputs: number, outputs: number): BlockKind[] => [
  ...Array<BlockKind>(inputs).fill('input'),
  'middle',
  ...Array<BlockKind>(outputs).fill('output'),
];

const UNETS: Readonly<Record<UnetModel, Unet>> = {
  sd15: { kinds: kindsOf(6, 9), style: [0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15], composition: [4, 5] },
  sdxl: { kinds: kindsOf(4, 6), style: [6], composition: [3] },
};

/** Composition of SD1.5 sits in two transformers, the first of which is weakened. */
const FIRST_COMPOSITION = 0.25;
const WEAK = 0.2;
/** Transformers that carry neither, in `composition precise`. */
const REST = 0.1;
const LOWEST = 0.05;
const RANGE = 0.95;

/** The weight of every transformer, in order. @throws {InvalidRequestError} for a layer list that cannot be read. */
export function transformerWeights(options: WeightOptions): TransformerWeight[] {
  const { model, type, weight, layerWeights } = options;
  const unet = UNETS[model];
  const listed = layerWeights?.trim() ? parseLayerWeights(layerWeights, unet.kinds.length) : undefined;
  return unet.kinds.map((kind, t) => ({
    isTurned: isTurned(unet, type, t),
    weight: listed === undefined ? weightAt(unet, model, options, kind, t) : scaled(listed.get(t), weight),
  }));
}

function scaled(factor: number | undefined, weight: number): number | undefined {
  return factor === undefined ? undefined : factor * weight;
}

function isTurned({ composition }: Unet, type: WeightType, t: number): boolean {
  if (type === 'style transfer precise') return composition.includes(t);
  return type === 'composition precise' && !composition.includes(t);
}

function weightAt(
  unet: Unet,
  model: UnetModel,
  { type, weight, compositionWeight = 1, styleBoost = weight, compositionBoost = weight }: WeightOptions,
  kind: BlockKind,
  t: number,
): number | undefined {
  const { style, composition, kinds } = unet;
  const count = kinds.length;
  const isComposition = composition.includes(t);
  const isStyle = style.includes(t);
  const weakened = model === 'sd15' && t === composition[0] ? FIRST_COMPOSITION : 1;
  switch (type) {
    case 'linear':
      return weight;
    case 'ease in':
      return weight * (LOWEST + RANGE * (1 - t / count));
    case 'ease out':
      return weight * (LOWEST + RANGE * (t / count));
    case 'ease in-out':
      return weight * (LOWEST + RANGE * (1 - Math.abs(t - count / 2) / (count / 2)));
    case 'reverse in-out':
      return weight * (LOWEST + RANGE * (Math.abs(t - count / 2) / (count / 2)));
    case 'weak input':
    case 'weak middle':
    case 'weak output':
      return type === `weak ${kind}` ? weight * WEAK : weight;
    case 'strong middle':
      return kind === 'middle' ? weight : weight * WEAK;
    case 'style transfer':
      return isStyle ? weight : undefined;
    case 'composition':
      return isComposition ? weight * weakened : undefined;
    case 'strong style transfer':
      return isComposition ? undefined : weight;
    case 'style and composition':
      return isStyle ? weight : isComposition ? compositionWeight * weakened : undefined;
    case 'strong style and composition':
      return isComposition ? compositionWeight : weight;
    case 'style transfer precise':
      return isStyle ? weight : isComposition ? styleBoost * weakened : undefined;
    case 'composition precise':
      return isComposition ? weight * weakened : isStyle ? compositionBoost : compositionBoost * REST;
  }
}

function parseLayerWeights(text: string, count: number): Map<number, number> {
  const weights = new Map<number, number>();
  for (const entry of text.split(',')) {
    const match = /^\s*(\d{1,3})\s*:\s*([-+]?\d*\.?\d+(?:[eE][-+]?\d{1,3})?)\s*$/.exec(entry);
    const t = Number(match?.[1]);
    if (match === null || t >= count) {
      throw new InvalidRequestError(
        `"${entry.trim()}" is no layer weight: write them as "0:0.5, 3:1.5", layers 0 to ${count - 1}.`,
      );
    }
    weights.set(t, Number(match[2]));
  }
  return weights;
}

/** An attention layer of an adapter, and the place in the diffusion model that it belongs to. */
export interface AttentionPlace {
  /** N of `N.to_k_ip`. */
  readonly layer: number;
  /** Kind and number of the block, and the place inside it where a block has several. */
  readonly block: readonly [BlockKind, number] | readonly [BlockKind, number, number];
}

const SD15_PLACES: readonly (readonly [BlockKind, readonly number[]])[] = [
  ['input', [1, 2, 4, 5, 7, 8]],
  ['output', [3, 4, 5, 6, 7, 8, 9, 10, 11]],
  ['middle', [1]],
];
const SDXL_PLACES: readonly (readonly [BlockKind, number, number])[] = [
  ['input', 4, 2],
  ['input', 5, 2],
  ['input', 7, 10],
  ['input', 8, 10],
  ['output', 0, 10],
  ['output', 1, 10],
  ['output', 2, 10],
  ['output', 3, 2],
  ['output', 4, 2],
  ['output', 5, 2],
  ['middle', 1, 10],
];

/** Where the layers of an adapter belong: they count input blocks, then output blocks, then the middle. */
export function attentionPlaces(model: UnetModel): AttentionPlace[] {
  const blocks =
    model === 'sd15'
      ? SD15_PLACES.flatMap(([kind, numbers]) => numbers.map((number) => [kind, number] as const))
      : SDXL_PLACES.flatMap(([kind, number, depth]) =>
          Array.from({ length: depth }, (_none, index) => [kind, number, index] as const),
        );
  return blocks.map((block, i) => ({ layer: 2 * i + 1, block }));
}
