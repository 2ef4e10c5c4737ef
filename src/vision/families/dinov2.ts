/**
 * DINOv2 large and giant, at 518 pixels without interpolation of positions.
 *
 * Source: ComfyUI, comfy/image_encoders/dino2.py.
 */
import { clipResampling } from '../../image/index.js';
import { activation, attention, classTokenOf, expandToBatch, type Value } from '../../onnx/index.js';
import type { Shape } from '../../tensor/tensor.js';
import type { VisionConfig } from '../config.js';
import type { OutputName, Preset, VisionFamily } from './family.js';
import { ACTIVATION_FLOORS, asSequences, embedPatches, flatten, norm, project, squareTokens } from './transformer.js';

const LARGE_CONFIG: VisionConfig = {
  hiddenSize: 1024,
  layers: 24,
  heads: 16,
  intermediateSize: 4096,
  imageSize: 518,
  patchSize: 14,
  activation: 'gelu',
  layerNormEps: 1e-6,
  imageMean: [0.485, 0.456, 0.406],
  imageStd: [0.229, 0.224, 0.225],
};

const LARGE: Preset = { name: 'DINOv2 large', source: 'dino2_large.json', config: LARGE_CONFIG };
const GIANT: Preset = {
  name: 'DINOv2 giant',
  source: 'dino2_giant.json',
  config: { ...LARGE_CONFIG, hiddenSize: 1536, layers: 40, heads: 24, activation: 'silu' },
};

const PATCHES = 'embeddings.patch_embeddings.projection';
const layerName = (index: number): string => `encoder.layer.${index}`;
/** The silu gate is how the giant's MLP differs; no other configuration of the family has it. */
const isGated = (config: VisionConfig): boolean => config.activation === 'silu';
const tokensOf = (config: VisionConfig): number => squareTokens(config, 1);
const QKV = ['query', 'key', 'value'] as const;

export const dinov2: VisionFamily = {
  modelType: 'dinov2',
  presets: [LARGE, GIANT],

  choose(weights) {
    if (weights.has(`${layerName(39)}.layer_scale2.lambda1`)) return GIANT;
    return weights.has(`${layerName(23)}.layer_scale2.lambda1`) ? LARGE : undefined;
  },

  outputs: () => ['last_hidden_state', 'penultimate_hidden_states', 'image_embeds'],

  needs(config) {
    const { hiddenSize: d, patchSize: p, intermediateSize: m } = config;
    const both = (name: string, weight: Shape): [string, Shape][] => [
      [`${name}.weight`, weight],
      [`${name}.bias`, weight.slice(0, 1)],
    ];
    const layers = Array.from({ length: config.layers }, (_none, i) => {
      const layer = layerName(i);
      return [
        ...both(`${layer}.norm1`, [d]),
        ...both(`${layer}.norm2`, [d]),
        ...QKV.flatMap((name) => both(`${layer}.attention.attention.${name}`, [d, d])),
        ...both(`${layer}.attention.output.dense`, [d, d]),
        ...(isGated(config)
          ? [...both(`${layer}.mlp.weights_in`, [2 * m, d]), ...both(`${layer}.mlp.weights_out`, [d, m])]
          : [...both(`${layer}.mlp.fc1`, [m, d]), ...both(`${layer}.mlp.fc2`, [d, m])]),
        [`${layer}.layer_scale1.lambda1`, [d]],
        [`${layer}.layer_scale2.lambda1`, [d]],
      ] as [string, Shape][];
    }).flat();
    const required = new Map<string, Shape>([
      ['embeddings.cls_token', [1, 1, d]],
      ['embeddings.position_embeddings', [1, tokensOf(config), d]],
      ...both(PATCHES, [d, 3, p, p]),
      ...both('layernorm', [d]),
      ...layers,
    ]);
    return { required, optional: new Map() };
  },

  outputShape: (output, config) =>
    output === 'image_embeds' ? [config.hiddenSize] : [tokensOf(config), config.hiddenSize],

  keepsFullPrecision: () => false,

  prefixTokens: 1,
  tokens: tokensOf,
  resample: (width, height, crop, { imageSize }) => clipResampling(width, height, imageSize, crop),
  extraInputs: [],

  quantization(config) {
    const layers = Array.from({ length: config.layers }, (_none, i) => layerName(i));
    // A gate times a value has no smallest result.
    const inputFloor = isGated(config) ? undefined : ACTIVATION_FLOORS[config.activation];
    const [wide, narrow] = isGated(config) ? ['weights_in', 'weights_out'] : ['fc1', 'fc2'];
    return {
      afterNorm: layers.flatMap((layer) => [
        { norm: `${layer}.norm1`, linears: QKV.map((name) => `${layer}.attention.attention.${name}`) },
        { norm: `${layer}.norm2`, linears: [`${layer}.mlp.${wide}`] },
      ]),
      queriesAndKeys: layers.flatMap((layer) => [QKV[0], QKV[1]].map((name) => `${layer}.attention.attention.${name}`)),
      others: layers.flatMap((layer) => [
        { name: `${layer}.attention.output.dense` },
        { name: `${layer}.mlp.${narrow}`, ...(inputFloor === undefined ? {} : { inputFloor }) },
      ]),
    };
  },

  embed({ g, weights, config }, pixels) {
    const { weight, bias } = weights.norm(PATCHES);
    const patches = embedPatches(g, pixels, weight, bias, config);
    const classToken = expandToBatch(g, weights.value('embeddings.cls_token'), pixels, 1, config.hiddenSize);
    const sequence = g.op('Concat', [classToken, patches], { axis: 1 });
    return flatten(g, g.op('Add', [sequence, weights.value('embeddings.position_embeddings')]), config);
  },

  layer(build, x, index) {
    const { g, weights, config } = build;
    const { intermediateSize: m } = config;
    const layer = layerName(index);
    const scaled = (value: Value, name: string): Value =>
      g.op('Mul', [value, weights.value(`${layer}.${name}.lambda1`)]);

    const normed = norm(build, x, `${layer}.norm1`);
    const [q, k, v] = QKV.map((name) =>
      asSequences(build, project(build, normed, `${layer}.attention.attention.${name}`)),
    ) as [Value, Value, Value];
    const mixed = flatten(g, attention(g, q, k, v, config.heads, config.hiddenSize / config.heads), config);
    const attended = scaled(project(build, mixed, `${layer}.attention.output.dense`), 'layer_scale1');
    const middle = g.op('Add', [x, attended]);

    const normedAgain = norm(build, middle, `${layer}.norm2`);
    let narrow: Value;
    if (isGated(config)) {
      const both = project(build, normedAgain, `${layer}.mlp.weights_in`);
      const gate = activation(g, g.slice(both, 1, 0, m), 'silu');
      narrow = project(build, g.op('Mul', [gate, g.slice(both, 1, m, 2 * m)]), `${layer}.mlp.weights_out`);
    } else {
      const wide = activation(g, project(build, normedAgain, `${layer}.mlp.fc1`), config.activation);
      narrow = project(build, wide, `${layer}.mlp.fc2`);
    }
    return g.op('Add', [middle, scaled(narrow, 'layer_scale2')]);
  },

  head(build, states) {
    const { g } = build;
    const last = asSequences(build, norm(build, states.last, 'layernorm'));
    return new Map<OutputName, Value>([
      ['last_hidden_state', last],
      ['penultimate_hidden_states', asSequences(build, states.penultimate)],
      ['image_embeds', classTokenOf(g, last)],
    ]);
  },
};
