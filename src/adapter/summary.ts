/** Adapters and their results in the form in which commands and routes show and send them. */
import type { F32Tensor } from '../tensor/tensor.js';
import { describeEncoderNeed } from './engine.js';
import type { IPAdapterModel } from './model.js';
import type { ProjectedEmbeds } from './references.js';

/** What people and programs want to know of an adapter. */
export function adapterSummary(model: IPAdapterModel): {
  readonly variant: string;
  readonly label: string;
  readonly base_model: string | null;
  readonly tokens: number | null;
  readonly token_width: number;
  readonly context_width: number;
  readonly encoder: { readonly output: string; readonly width: number; readonly image_size: number } | null;
  readonly wants: string;
  readonly face: { readonly width: number; readonly normed: boolean; readonly crop_size: number } | null;
  readonly layers: readonly number[];
  readonly has_lora: boolean;
  readonly parameters: number;
  readonly dtypes: readonly string[];
} {
  const { encoder, face } = model;
  const wants = [
    ...(encoder === undefined ? [] : [describeEncoderNeed(model)]),
    ...(face === undefined ? [] : [`${face.isNormed ? 'normed' : 'plain'} face embedding [B, 1, ${face.width}]`]),
  ];
  return {
    variant: model.variant,
    label: model.label,
    base_model: model.baseModel ?? null,
    tokens: model.tokens ?? null,
    token_width: model.tokenWidth,
    context_width: model.contextWidth,
    encoder:
      encoder === undefined ? null : { output: encoder.output, width: encoder.width, image_size: encoder.imageSize },
    wants: wants.join('; '),
    face: face === undefined ? null : { width: face.width, normed: face.isNormed, crop_size: face.cropSize },
    layers: model.layers,
    has_lora: model.hasLora,
    parameters: model.parameters,
    dtypes: model.dtypes,
  };
}

/** Tokens as `cond` and `uncond`, keys and values as `k_cond.1`, `v_cond.1`, `k_uncond.1`, `v_uncond.1`, … */
export function tokenTensors({ cond, uncond }: ProjectedEmbeds): Record<string, F32Tensor> {
  const tensors: Record<string, F32Tensor> = { cond: cond.tokens, uncond: uncond.tokens };
  for (const [side, { layers }] of Object.entries({ cond, uncond })) {
    for (const [layer, { keys, values }] of layers) {
      tensors[`k_${side}.${layer}`] = keys;
      tensors[`v_${side}.${layer}`] = values;
    }
  }
  return tensors;
}
