/**
 * SigLIP2 so400m NaFlex: pictures keep their shape, so every picture has a number of tokens of its own.
 *
 * The patch embedding is a linear layer over the patch's pixels (row, column, channel); here it is the same product as a
 * convolution. The 16×16 table of positions is resampled to the picture's patches, as two small matrices that come with
 * the pixel values. `crop` has no meaning, as in ComfyUI.
 *
 * Source: ComfyUI after 0.3.64, comfy/clip_model.py (`Siglip2Embeddings`, `siglip2_pos_embed`).
 */
import { axisMatrix, flexibleResampling } from '../../image/index.js';
import { layerNorm, type Value } from '../../onnx/index.js';
import { f32Tensor, type Shape } from '../../tensor/tensor.js';
import type { VisionConfig } from '../config.js';
import type { OutputName, Preset, VisionFamily } from './family.js';
import {
  asSequences,
  embedPatches,
  encoderLayer,
  encoderQuantization,
  encoderShapes,
  FIRST_NORM,
  flatten,
  hasLayer,
  POSITIONS,
} from './transformer.js';

const NAFLEX: Preset = {
  name: 'SigLIP2 so400m NaFlex',
  source: 'clip_vision_siglip2_base_naflex.json',
  config: {
    hiddenSize: 1152,
    layers: 27,
    heads: 16,
    intermediateSize: 4304,
    imageSize: -1,
    patchSize: 16,
    maxPatches: 256,
    activation: 'gelu_tanh',
    layerNormEps: 1e-5,
    imageMean: [0.5, 0.5, 0.5],
    imageStd: [0.5, 0.5, 0.5],
  },
};

const PATCHES = 'vision_model.embeddings.patch_embedding';

/** Positions are a square table; ComfyUI rounds its side. */
const tableSide = ({ maxPatches = 0 }: VisionConfig): number => Math.round(Math.sqrt(maxPatches));
/** Matrix that resamples one side of the table to this many patches. */
const positionMatrix = (config: VisionConfig, patches: number): ReturnType<typeof f32Tensor> =>
  f32Tensor([patches, tableSide(config)], axisMatrix('bilinear', tableSide(config), patches));

export const siglip2: VisionFamily = {
  modelType: 'siglip2_vision_model',
  presets: [NAFLEX],

  choose(weights) {
    if (!hasLayer(weights, 22) || weights.get(FIRST_NORM)?.shape[0] !== NAFLEX.config.hiddenSize) return undefined;
    return weights.get(`${PATCHES}.weight`)?.shape.length === 2 ? NAFLEX : undefined;
  },

  outputs: () => ['last_hidden_state', 'penultimate_hidden_states', 'image_embeds'],

  needs(config) {
    const { hiddenSize: d, patchSize: p } = config;
    const required = new Map<string, Shape>([
      [`${PATCHES}.weight`, [d, p * p * 3]],
      [`${PATCHES}.bias`, [d]],
      [POSITIONS, [config.maxPatches ?? 0, d]],
      ['vision_model.post_layernorm.weight', [d]],
      ['vision_model.post_layernorm.bias', [d]],
      ...encoderShapes(config),
    ]);
    return { required, optional: new Map() };
  },

  outputShape: (_output, config) => ['tokens', config.hiddenSize],
  prefixTokens: 0,
  tokens: () => undefined,
  keepsFullPrecision: (name) => name.startsWith('vision_model.post_layernorm.'),
  resample: (width, height, _crop, { patchSize, maxPatches = 0 }) =>
    flexibleResampling(width, height, patchSize, maxPatches),

  extraInputs: [
    {
      name: 'position_rows',
      shape: ['patch_rows', 'table_rows'],
      value: (config, height) => positionMatrix(config, Math.floor(height / config.patchSize)),
    },
    {
      name: 'position_columns',
      shape: ['patch_columns', 'table_columns'],
      value: (config, _height, width) => positionMatrix(config, Math.floor(width / config.patchSize)),
    },
  ],

  quantization: encoderQuantization,

  embed({ g, weights, config }, pixels, [rows, columns]) {
    const { hiddenSize: d, patchSize: p } = config;
    const { weight, bias } = weights.norm(PATCHES);
    const kernel = g.op('Transpose', [g.reshape(weight, [d, p, p, 3])], { perm: [0, 3, 1, 2] });
    const patches = embedPatches(g, pixels, kernel, bias, config);
    // [side, side·D] by rows, then [rows, side, D] by columns.
    const side = tableSide(config);
    const byRows = g.op('MatMul', [rows ?? '', g.reshape(weights.value(POSITIONS), [side, side * d])]);
    const positions = g.op('MatMul', [columns ?? '', g.reshape(byRows, [-1, side, d])]);
    return flatten(g, g.op('Add', [patches, g.reshape(positions, [1, -1, d])]), config);
  },

  layer: encoderLayer,

  head(build, states) {
    const { g, weights, config } = build;
    const post = layerNorm(g, states.last, weights.norm('vision_model.post_layernorm'), config.layerNormEps);
    const last = asSequences(build, post);
    return new Map<OutputName, Value>([
      ['last_hidden_state', last],
      ['penultimate_hidden_states', asSequences(build, states.penultimate)],
      ['image_embeds', last],
    ]);
  },
};
