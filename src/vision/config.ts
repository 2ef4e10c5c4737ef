/**
 * What a vision encoder's file does not say in its tensors: heads, activation, patch size, mean and deviation.
 *
 * ComfyUI takes these from a fixed configuration per family; small models carry them in `__metadata__.config`.
 */
import * as z from 'zod';
import { problemsOf } from '../common/problems.js';
import type { Activation } from '../onnx/index.js';

export interface VisionConfig {
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly intermediateSize: number;
  /** Side of the square picture that the encoder takes, in pixels; -1 where pictures keep their shape. */
  readonly imageSize: number;
  readonly patchSize: number;
  /** Patches of a picture at most, where pictures keep their shape. */
  readonly maxPatches?: number;
  readonly activation: Activation;
  readonly layerNormEps: number;
  /** Per channel, RGB. */
  readonly imageMean: readonly number[];
  readonly imageStd: readonly number[];
  /** Width of the image embeds; absent where the family has no projection. */
  readonly projectionDim?: number;
  /** Width of `mm_projected`; present for encoders with a LLaVA projector. */
  readonly mmProjectorDim?: number;
}

export const CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073] as const;
export const CLIP_STD = [0.26862954, 0.26130258, 0.27577711] as const;

/** Names of activations in Hugging Face configurations. */
const ACTIVATIONS = {
  gelu: 'gelu',
  quick_gelu: 'quick_gelu',
  gelu_pytorch_tanh: 'gelu_tanh',
  silu: 'silu',
} as const satisfies Record<string, Activation>;

const size = (high: number): z.ZodNumber => z.number().int().min(1).max(high);
const channels = (low: number, high: number): z.ZodType<number[]> => z.array(z.number().min(low).max(high)).length(3);

/** Attention of a real encoder needs 1.1 GB at most (4096 patches, 16 heads); beyond this a size is a mistake or worse. */
const MAX_IMAGE_BYTES = 4e9;

/** The entry `config` of `__metadata__`; bounds keep hostile numbers from becoming hostile allocations. */
const metadataConfigSchema = z.object({
  model_type: z.enum(['clip_vision_model', 'siglip_vision_model', 'siglip2_vision_model', 'dinov2', 'dinov3']),
  hidden_size: size(16_384),
  num_attention_heads: size(256),
  num_hidden_layers: size(256),
  intermediate_size: size(65_536),
  image_size: z.union([size(4096), z.literal(-1)]),
  patch_size: size(256),
  num_patches: size(4096).optional(),
  hidden_act: z.enum(['gelu', 'quick_gelu', 'gelu_pytorch_tanh', 'silu']),
  layer_norm_eps: z.number().min(0).max(1),
  // Real ones lie in 0..1, or in 0..255; others would drown every picture, or divide by nothing.
  image_mean: channels(-1000, 1000),
  image_std: channels(0.001, 1000),
  projection_dim: size(65_536).optional(),
  mm_projector_dim: size(65_536).optional(),
});

export type ModelType = z.output<typeof metadataConfigSchema>['model_type'];

export interface MetadataConfig {
  readonly modelType: ModelType;
  readonly config: VisionConfig;
}

/**
 * Reads the configuration that a small model carries.
 *
 * @returns the configuration, or why there is none that can be used.
 */
export function readMetadataConfig(
  metadata: ReadonlyMap<string, string>,
): MetadataConfig | { readonly problem: string } {
  const text = metadata.get('config');
  if (text === undefined) return { problem: 'it carries no configuration' };
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return { problem: 'the entry "config" of its metadata is not JSON' };
  }
  const parsed = metadataConfigSchema.safeParse(json);
  if (!parsed.success) {
    return {
      problem: `the entry "config" of its metadata is no vision configuration (${problemsOf(parsed.error).join('; ')})`,
    };
  }
  const entry = parsed.data;
  if (entry.hidden_size % entry.num_attention_heads !== 0) {
    return { problem: `its hidden size ${entry.hidden_size} cannot be split into ${entry.num_attention_heads} heads` };
  }
  const isFlexible = entry.model_type === 'siglip2_vision_model';
  if (isFlexible !== (entry.image_size === -1) || isFlexible !== (entry.num_patches !== undefined)) {
    return { problem: 'its image_size and num_patches do not belong to its model type' };
  }
  if (!isFlexible && entry.image_size < entry.patch_size)
    return { problem: 'its patches are larger than its pictures' };
  const config: VisionConfig = {
    hiddenSize: entry.hidden_size,
    layers: entry.num_hidden_layers,
    heads: entry.num_attention_heads,
    intermediateSize: entry.intermediate_size,
    imageSize: entry.image_size,
    patchSize: entry.patch_size,
    activation: ACTIVATIONS[entry.hidden_act],
    layerNormEps: entry.layer_norm_eps,
    imageMean: entry.image_mean,
    imageStd: entry.image_std,
    ...(entry.num_patches === undefined ? {} : { maxPatches: entry.num_patches }),
    ...(entry.projection_dim === undefined ? {} : { projectionDim: entry.projection_dim }),
    ...(entry.mm_projector_dim === undefined ? {} : { mmProjectorDim: entry.mm_projector_dim }),
  };
  const tokens = config.maxPatches ?? patchCount(config);
  const bytes = imageBytes(config, tokens);
  if (bytes > MAX_IMAGE_BYTES) {
    return {
      problem:
        `one picture of its image_size ${config.imageSize} in patches of ${config.patchSize} is ${tokens} tokens, which would ` +
        `need ${(bytes / 1e9).toFixed(1)} GB of memory; the limit is ${MAX_IMAGE_BYTES / 1e9} GB`,
    };
  }
  return { modelType: entry.model_type, config };
}

/** What encoding one picture needs at least, beside the weights: one layer's attention scores, states and MLP in f32. */
function imageBytes({ heads, hiddenSize, intermediateSize }: VisionConfig, tokens: number): number {
  return 4 * (heads * tokens ** 2 + tokens * (6 * hiddenSize + intermediateSize));
}

/** Patches of a picture; pixels left over at the right and the bottom are unused. */
export function patchCount(config: VisionConfig): number {
  return Math.floor(config.imageSize / config.patchSize) ** 2;
}
