/**
 * Encoders with random weights in the real file format: for the demo, tests and benches, where no model is at hand.
 *
 * A file of true size is written in pieces; it is never whole in memory.
 */
import { open } from 'node:fs/promises';
import { f32ToF16Bits } from '../tensor/float16.js';
import { elementCount, type Shape } from '../tensor/tensor.js';
import type { ModelType, VisionConfig } from './config.js';
import { FAMILIES } from './families/index.js';

interface RandomModelOptions {
  readonly modelType?: ModelType;
  readonly dtype?: 'F16' | 'F32';
  readonly seed?: number;
  /** Carry the configuration in the file, as models that ComfyUI has no rule for must. */
  readonly withConfig?: boolean;
  /** So many channels of every norm get a gain of 10 to 30, as trained encoders have a few. */
  readonly outlierChannels?: number;
}

/** Random numbers are made once and used again from another place: gigabytes of fresh ones would take minutes. */
const POOL_SIZE = 1 << 20;
const CHUNK_VALUES = 1 << 22;
const OUTLIER_GAINS = { low: 10, high: 30 } as const;

/** Configuration of one of ComfyUI's presets, by its name (`CLIP-ViT-H`). */
export function presetConfig(name: string): { modelType: ModelType; config: VisionConfig } | undefined {
  for (const { modelType, presets } of FAMILIES) {
    const preset = presets.find((candidate) => candidate.name === name);
    if (preset !== undefined) return { modelType, config: preset.config };
  }
  return undefined;
}

/** Writes a model of this configuration. The file must not exist yet. */
export async function writeRandomModel(
  path: string,
  config: VisionConfig,
  options: RandomModelOptions = {},
): Promise<void> {
  const { modelType = 'clip_vision_model', dtype = 'F16', seed = 1 } = options;
  const family = FAMILIES.find((candidate) => candidate.modelType === modelType);
  if (family === undefined) throw new RangeError(`no family has the model type ${modelType}`);
  const { required, optional } = family.needs(config);
  const shapes = [...required, ...[...optional.values()].flatMap((needs) => [...needs])];
  const size = dtype === 'F16' ? 2 : 4;
  const header: Record<string, unknown> = {};
  if (options.withConfig === true)
    header['__metadata__'] = { config: JSON.stringify(metadataConfig(modelType, config)) };
  let end = 0;
  for (const [name, shape] of shapes) {
    const bytes = elementCount(shape) * size;
    header[name] = { dtype, shape, data_offsets: [end, end + bytes] };
    end += bytes;
  }
  const json = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([json, Buffer.alloc((8 - (json.length % 8)) % 8, ' ')]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));

  const pool = gaussianPool(seed);
  const file = await open(path, 'wx');
  try {
    await file.write(Buffer.concat([length, padded]));
    let place = 0;
    for (const [name, shape] of shapes) {
      const { mean, deviation } = distributionOf(name, shape);
      for (let left = elementCount(shape); left > 0; left -= CHUNK_VALUES) {
        const count = Math.min(left, CHUNK_VALUES);
        const values = makeValues(pool, place, count, mean, deviation);
        if (mean !== 0) addOutliers(values, options.outlierChannels ?? 0);
        await file.write(asBytes(values, dtype));
        place = (place + count * 7 + 1) % POOL_SIZE;
      }
    }
  } finally {
    await file.close();
  }
}

/** Norms near one, biases and embeddings small, linear weights so that the size of activations is kept. */
function distributionOf(name: string, shape: Shape): { mean: number; deviation: number } {
  if (/norm.*\.weight$|lambda1$|ln_.*weight$/.test(name)) return { mean: 1, deviation: 0.1 };
  if (shape.length < 2 || /embedding|cls_token/.test(name))
    return { mean: 0, deviation: shape.length === 4 ? 1 / Math.sqrt(elementCount(shape.slice(1))) : 0.05 };
  return { mean: 0, deviation: 1 / Math.sqrt(elementCount(shape.slice(1))) };
}

function gaussianPool(seed: number): Float32Array {
  const pool = new Float32Array(POOL_SIZE);
  let state = (seed * 2_654_435_761) >>> 0 || 1;
  const uniform = (): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((state >>> 0) + 0.5) / 4_294_967_296;
  };
  for (let i = 0; i < POOL_SIZE; i += 1)
    pool[i] = Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  return pool;
}

function makeValues(pool: Float32Array, place: number, count: number, mean: number, deviation: number): Float32Array {
  const values = new Float32Array(count);
  for (let i = 0; i < count; i += 1) values[i] = mean + deviation * (pool[(place + i) % POOL_SIZE] ?? 0);
  return values;
}

/** Spread evenly over the gains of a norm, the same channels in every norm. */
function addOutliers(gains: Float32Array, channels: number): void {
  for (let i = 0; i < channels; i += 1) {
    const share = channels === 1 ? 0 : i / (channels - 1);
    const at = Math.floor(((i + 0.5) * gains.length) / channels);
    gains[at] = OUTLIER_GAINS.low + share * (OUTLIER_GAINS.high - OUTLIER_GAINS.low);
  }
}

function asBytes(values: Float32Array, dtype: 'F16' | 'F32'): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer);
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i += 1) halves[i] = f32ToF16Bits(values[i] ?? 0);
  return new Uint8Array(halves.buffer);
}

const HF_ACTIVATIONS = {
  gelu: 'gelu',
  quick_gelu: 'quick_gelu',
  gelu_tanh: 'gelu_pytorch_tanh',
  silu: 'silu',
} as const;

function metadataConfig(modelType: ModelType, config: VisionConfig): Record<string, unknown> {
  return {
    model_type: modelType,
    hidden_size: config.hiddenSize,
    num_attention_heads: config.heads,
    num_hidden_layers: config.layers,
    intermediate_size: config.intermediateSize,
    image_size: config.imageSize,
    patch_size: config.patchSize,
    num_patches: config.maxPatches,
    hidden_act: HF_ACTIVATIONS[config.activation],
    layer_norm_eps: config.layerNormEps,
    image_mean: config.imageMean,
    image_std: config.imageStd,
    projection_dim: config.projectionDim,
    mm_projector_dim: config.mmProjectorDim,
  };
}
