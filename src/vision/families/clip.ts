/**
 * CLIP-ViT L, L-336, H and bigG, and L-336 with a LLaVA projector.
 *
 * Source: ComfyUI, comfy/clip_model.py (`CLIPVision`, `CLIPVisionModelProjection`) and comfy/clip_vision.py.
 */
import { clipResampling } from '../../image/index.js';
import { activation, classTokenOf, expandToBatch, layerNorm, linear, type Value } from '../../onnx/index.js';
import type { Shape } from '../../tensor/tensor.js';
import { CLIP_MEAN, CLIP_STD, patchCount, type VisionConfig } from '../config.js';
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
  squareTokens,
} from './transformer.js';

const shared = { patchSize: 14, layerNormEps: 1e-5, imageMean: CLIP_MEAN, imageStd: CLIP_STD } as const;

const L: VisionConfig = {
  ...shared,
  hiddenSize: 1024,
  layers: 24,
  heads: 16,
  intermediateSize: 4096,
  imageSize: 224,
  activation: 'quick_gelu',
  projectionDim: 768,
};
const L_336: VisionConfig = { ...L, imageSize: 336 };

const PRESETS = {
  g: {
    name: 'CLIP-ViT-bigG',
    source: 'clip_vision_config_g.json',
    config: { ...L, hiddenSize: 1664, layers: 48, intermediateSize: 8192, activation: 'gelu', projectionDim: 1280 },
  },
  h: {
    name: 'CLIP-ViT-H',
    source: 'clip_vision_config_h.json',
    config: { ...L, hiddenSize: 1280, layers: 32, intermediateSize: 5120, activation: 'gelu', projectionDim: 1024 },
  },
  l336Llava: {
    name: 'CLIP-ViT-L-336 with LLaVA projector',
    source: 'clip_vision_config_vitl_336_llava.json',
    config: { ...L_336, mmProjectorDim: 4096 },
  },
  l336: { name: 'CLIP-ViT-L-336', source: 'clip_vision_config_vitl_336.json', config: L_336 },
  l: { name: 'CLIP-ViT-L', source: 'clip_vision_config_vitl.json', config: L },
} as const satisfies Record<string, Preset>;

const PROJECTION = 'visual_projection.weight';
const PROJECTOR = 'multi_modal_projector';
const SIGLIP_WIDTH = 1152; // 24 layers of this width are SigLIP's
const tokensOf = (config: VisionConfig): number => squareTokens(config, 1);

export const clip: VisionFamily = {
  modelType: 'clip_vision_model',
  presets: Object.values(PRESETS),

  choose(weights) {
    if (hasLayer(weights, 47)) return PRESETS.g;
    if (hasLayer(weights, 30)) return PRESETS.h;
    if (!hasLayer(weights, 22) || weights.get(FIRST_NORM)?.shape[0] === SIGLIP_WIDTH) return undefined;
    if (weights.get(POSITIONS)?.shape[0] !== 577) return PRESETS.l;
    return weights.has(`${PROJECTOR}.linear_1.bias`) ? PRESETS.l336Llava : PRESETS.l336;
  },

  outputs(config) {
    const outputs: OutputName[] = ['last_hidden_state', 'penultimate_hidden_states'];
    if (config.projectionDim !== undefined) outputs.push('image_embeds');
    if (config.mmProjectorDim !== undefined) outputs.push('mm_projected');
    return outputs;
  },

  needs(config) {
    const { hiddenSize: d, patchSize: p, projectionDim, mmProjectorDim: m } = config;
    const optional = new Map<OutputName, ReadonlyMap<string, Shape>>();
    if (projectionDim !== undefined) optional.set('image_embeds', new Map([[PROJECTION, [projectionDim, d]]]));
    if (m !== undefined) {
      const shapes: [string, Shape][] = [
        [`${PROJECTOR}.linear_1.weight`, [m, d]],
        [`${PROJECTOR}.linear_1.bias`, [m]],
        [`${PROJECTOR}.linear_2.weight`, [m, m]],
        [`${PROJECTOR}.linear_2.bias`, [m]],
      ];
      optional.set('mm_projected', new Map(shapes));
    }
    const norms = ['pre_layrnorm', 'post_layernorm'].flatMap((name): [string, Shape][] => [
      [`vision_model.${name}.weight`, [d]],
      [`vision_model.${name}.bias`, [d]],
    ]);
    const required = new Map<string, Shape>([
      ['vision_model.embeddings.class_embedding', [d]],
      ['vision_model.embeddings.patch_embedding.weight', [d, 3, p, p]],
      [POSITIONS, [tokensOf(config), d]],
      ...norms,
      ...encoderShapes(config),
    ]);
    return { required, optional };
  },

  outputShape(output, config) {
    if (output === 'image_embeds') return [config.projectionDim ?? 0];
    if (output === 'mm_projected') return [patchCount(config), config.mmProjectorDim ?? 0];
    return [tokensOf(config), config.hiddenSize];
  },

  keepsFullPrecision: (name) => /^(vision_model\.(pre_layrnorm|post_layernorm)|visual_projection)\./.test(name),

  prefixTokens: 1,
  tokens: tokensOf,
  resample: (width, height, crop, { imageSize }) => clipResampling(width, height, imageSize, crop),
  extraInputs: [],
  quantization: encoderQuantization,

  embed({ g, weights, config }, pixels) {
    const weight = weights.value('vision_model.embeddings.patch_embedding.weight');
    const patches = embedPatches(g, pixels, weight, undefined, config);
    const classToken = g.reshape(weights.value('vision_model.embeddings.class_embedding'), [1, 1, config.hiddenSize]);
    const first = expandToBatch(g, classToken, pixels, 1, config.hiddenSize);
    const embedded = g.op('Add', [g.op('Concat', [first, patches], { axis: 1 }), weights.value(POSITIONS)]);
    return layerNorm(g, flatten(g, embedded, config), weights.norm('vision_model.pre_layrnorm'), config.layerNormEps);
  },

  layer: encoderLayer,

  head(build, states, outputs) {
    const { g, weights, config } = build;
    const last = asSequences(build, states.last);
    const penultimate = asSequences(build, states.penultimate);
    const values = new Map<OutputName, Value>([
      ['last_hidden_state', last],
      ['penultimate_hidden_states', penultimate],
    ]);
    if (outputs.includes('image_embeds')) {
      // Of all tokens, though only the first one's counts: a product of few rows is split among the processor's cores, and
      // added up, in another way, so that the last bits of a picture's embeds would tell whether it was encoded alone.
      const normed = layerNorm(g, states.last, weights.norm('vision_model.post_layernorm'), config.layerNormEps);
      const weight = weights.value(PROJECTION);
      const projected = weights.isTransposed(PROJECTION)
        ? g.op('MatMul', [normed, weight])
        : linear(g, normed, { weight });
      const embeds = g.reshape(projected, [-1, tokensOf(config), config.projectionDim ?? 0]);
      values.set('image_embeds', classTokenOf(g, embeds));
    }
    if (outputs.includes('mm_projected')) {
      const patches = g.reshape(g.slice(penultimate, 1, 1, tokensOf(config)), [-1, config.hiddenSize]);
      const wide = activation(g, linear(g, patches, weights.linear(`${PROJECTOR}.linear_1`)), 'gelu');
      const projected = linear(g, wide, weights.linear(`${PROJECTOR}.linear_2`));
      values.set('mm_projected', g.reshape(projected, [-1, patchCount(config), config.mmProjectorDim ?? 0]));
    }
    return values;
  },
};
