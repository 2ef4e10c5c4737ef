/**
 * SigLIP so400m at 384 and 512 pixels.
 *
 * ComfyUI builds it with a layer-norm epsilon of 1e-5, not the 1e-6 it was trained with, and never runs the pooling
 * head; so do we.
 *
 * Source: ComfyUI, comfy/clip_model.py (`CLIPVision` with `siglip_vision_model`).
 */
import { clipResampling } from '../../image/index.js';
import { layerNorm, type Value } from '../../onnx/index.js';
import type { Shape } from '../../tensor/tensor.js';
import { patchCount, type VisionConfig } from '../config.js';
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

const SO400M: VisionConfig = {
  hiddenSize: 1152,
  layers: 27,
  heads: 16,
  intermediateSize: 4304,
  imageSize: 384,
  patchSize: 14,
  activation: 'gelu_tanh',
  layerNormEps: 1e-5,
  imageMean: [0.5, 0.5, 0.5],
  imageStd: [0.5, 0.5, 0.5],
};

const AT_384: Preset = { name: 'SigLIP so400m 384', source: 'clip_vision_siglip_384.json', config: SO400M };
const AT_512: Preset = {
  name: 'SigLIP so400m 512',
  source: 'clip_vision_siglip_512.json',
  config: { ...SO400M, imageSize: 512, patchSize: 16 },
};

const PATCHES = 'vision_model.embeddings.patch_embedding';

export const siglip: VisionFamily = {
  modelType: 'siglip_vision_model',
  presets: [AT_384, AT_512],

  choose(weights) {
    if (!hasLayer(weights, 22) || weights.get(FIRST_NORM)?.shape[0] !== SO400M.hiddenSize) return undefined;
    if (weights.get(`${PATCHES}.weight`)?.shape.length === 2) return undefined; // SigLIP2 NaFlex
    const positions = weights.get(POSITIONS)?.shape[0];
    if (positions === 729) return AT_384;
    if (positions === 1024) return AT_512;
    return {
      problem: `it is a SigLIP so400m with ${positions ?? 'no'} positions; ComfyUI knows 729 (384 px) and 1024 (512 px)`,
    };
  },

  outputs: () => ['last_hidden_state', 'penultimate_hidden_states', 'image_embeds', 'all_hidden_states'],

  needs(config) {
    const { hiddenSize: d, patchSize: p } = config;
    const required = new Map<string, Shape>([
      [`${PATCHES}.weight`, [d, 3, p, p]],
      [`${PATCHES}.bias`, [d]],
      [POSITIONS, [patchCount(config), d]],
      ['vision_model.post_layernorm.weight', [d]],
      ['vision_model.post_layernorm.bias', [d]],
      ...encoderShapes(config),
    ]);
    return { required, optional: new Map() };
  },

  outputShape(output, config) {
    const tokens: Shape = [patchCount(config), config.hiddenSize];
    return output === 'all_hidden_states' ? [config.layers, ...tokens] : tokens;
  },

  keepsFullPrecision: (name) => name.startsWith('vision_model.post_layernorm.'),

  prefixTokens: 0,
  tokens: patchCount,
  resample: (width, height, crop, { imageSize }) => clipResampling(width, height, imageSize, crop),
  extraInputs: [],
  quantization: encoderQuantization,

  embed({ g, weights, config }, pixels) {
    const { weight, bias } = weights.norm(PATCHES);
    const patches = embedPatches(g, pixels, weight, bias, config);
    return flatten(g, g.op('Add', [patches, weights.value(POSITIONS)]), config);
  },

  layer: encoderLayer,

  head(build, states, outputs) {
    const { g, weights, config } = build;
    const post = layerNorm(g, states.last, weights.norm('vision_model.post_layernorm'), config.layerNormEps);
    const last = asSequences(build, post);
    const values = new Map<OutputName, Value>([
      ['last_hidden_state', last],
      ['penultimate_hidden_states', asSequences(build, states.penultimate)],
      ['image_embeds', last],
    ]);
    if (outputs.includes('all_hidden_states') && states.all !== undefined) {
      const axis = g.ints([1]);
      const layers = states.all.map((state) => g.op('Unsqueeze', [asSequences(build, state), axis]));
      values.set('all_hidden_states', g.op('Concat', layers, { axis: 1 }));
    }
    return values;
  },
};
