/** What an encode can be asked for, and what of that a model has. */
import { InvalidRequestError, ModelFormatError } from '../common/errors.js';
import type { Crop } from '../image/index.js';
import type { BufferLease, Device, Progress } from '../runtime/index.js';
import type { F32Tensor, U8Tensor } from '../tensor/tensor.js';
import type { OutputName } from './families/index.js';
import type { VisionModel } from './model.js';
import type { Precision } from './weight-values.js';

/** u8 or f32 images `[B, H, W, C]` with RGB in 0..255 or 0..1, or pixel values f32 `[B, 3, S, S]` as the encoder takes them. */
export type VisionInput = F32Tensor | U8Tensor | { readonly pixelValues: F32Tensor };

export interface EncodeOptions {
  /** `center` (default) keeps the aspect ratio and crops, `none` stretches. */
  readonly crop?: Crop;
  /** Default `comfy`: the numbers of a default ComfyUI. */
  readonly precision?: Precision;
  /** Default: the engine's. */
  readonly device?: Device;
  /** Pieces per side that a picture is cut into, 1 to 16; see tiles.ts. */
  readonly tiles?: number | undefined;
  /** Share of the whole picture's own features, 0 to 1; absent: those of the pieces alone. */
  readonly tilesRatio?: number | undefined;
  /** Default: all that the model has, but `all_hidden_states` and, with tiles, image embeds that cannot be merged. */
  readonly outputs?: readonly OutputName[];
  /**
   * The layer whose result `penultimateHiddenStates` is, from 0, or from -1 backwards. Default -2: the last but one.
   */
  readonly intermediateOutput?: number | undefined;
  /** The caller does not change the result: it is kept after it was handed over, so that nobody waits for that. */
  readonly isReadOnly?: boolean;
  /** Features may lie in its memory; they are not looked at after it is released. With `isReadOnly` only. */
  readonly lease?: BufferLease | undefined;
  /** Checked before each run; a started run finishes first (onnxruntime cannot stop one). */
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
}

/** How features are made that are to be named; `output` is the one that is wanted. */
export interface NameOptions extends Pick<EncodeOptions, 'crop' | 'precision' | 'device' | 'signal' | 'onProgress'> {
  readonly output: OutputName;
}

export function defaultOutputs({ outputs }: VisionModel): OutputName[] {
  return outputs.filter((output) => output !== 'all_hidden_states');
}

export function requireOutputs(model: VisionModel, outputs: readonly OutputName[]): void {
  const missing = outputs.find((output) => !model.outputs.includes(output));
  if (missing === undefined) return;
  throw new ModelFormatError(
    'OUTPUT_UNAVAILABLE',
    `${model.family} cannot give ${missing}; it has ${model.outputs.join(', ')}. Weights that are absent from the file are never made up.`,
    { details: { output: missing, available: model.outputs } },
  );
}

/** Number of a layer from 0; undefined for the last but one, which needs no graph of its own. */
export function layerOf(index: number | undefined, layers: number): number | undefined {
  if (index === undefined) return undefined;
  const layer = index < 0 ? layers + index : index;
  if (!Number.isInteger(index) || layer < 0 || layer >= layers) {
    throw new InvalidRequestError(
      `This encoder has ${layers} layers: intermediate_output is one of 0 to ${layers - 1}, or -1 to -${layers}; not ${index}.`,
    );
  }
  return layer === layers - 2 ? undefined : layer;
}
