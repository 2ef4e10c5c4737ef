/**
 * DINOv3: ViT-L/16 and ViT-H+/16, with four register tokens and rotary positions.
 *
 * ComfyUI gives no penultimate hidden states for this family (its CLIPVisionEncode node fails on that), so neither do we.
 * Its configuration of the large model has no entry that it reads mean and deviation from, so it normalises with CLIP's,
 * not with ImageNet's as the model was trained with; a result is ComfyUI's result.
 *
 * Source: ComfyUI after 0.3.64, comfy/image_encoders/dino3.py, dino3_large.json and comfy/clip_vision.py.
 */
import { clipResampling } from '../../image/index.js';
import { activation, attention, classTokenOf, expandToBatch, type Value } from '../../onnx/index.js';
import { f32Tensor, type Shape } from '../../tensor/tensor.js';
import { CLIP_MEAN, CLIP_STD, type VisionConfig } from '../config.js';
import type { Build, OutputName, Preset, VisionFamily } from './family.js';
import { ACTIVATION_FLOORS, asSequences, embedPatches, flatten, norm, project, squareTokens } from './transformer.js';

const LARGE_CONFIG: VisionConfig = {
  hiddenSize: 1024,
  layers: 24,
  heads: 16,
  intermediateSize: 4096,
  imageSize: 224,
  patchSize: 16,
  activation: 'gelu',
  layerNormEps: 1e-5,
  imageMean: CLIP_MEAN,
  imageStd: CLIP_STD,
};
const LARGE: Preset = { name: 'DINOv3 ViT-L/16', source: 'dino3_large.json', config: LARGE_CONFIG };
const HUGE: Preset = {
  name: 'DINOv3 ViT-H+/16',
  source: 'DINOV3_VITH_CONFIG',
  config: {
    ...LARGE_CONFIG,
    hiddenSize: 1280,
    layers: 32,
    heads: 20,
    intermediateSize: 5120,
    imageSize: 1024,
    activation: 'silu',
    imageMean: [0.485, 0.456, 0.406],
    imageStd: [0.229, 0.224, 0.225],
  },
};

const REGISTERS = 4;
const PREFIX_TOKENS = 1 + REGISTERS;
const ROPE_THETA = 100;
const PATCHES = 'embeddings.patch_embeddings';
const layerName = (index: number): string => `layer.${index}`;
/** The silu gate is how the huge model's MLP differs. */
const isGated = (config: VisionConfig): boolean => config.activation === 'silu';
const tokensOf = (config: VisionConfig): number => squareTokens(config, PREFIX_TOKENS);
const QKV = ['q_proj', 'k_proj', 'v_proj'] as const;

export const dinov3: VisionFamily = {
  modelType: 'dinov3',
  presets: [LARGE, HUGE],

  choose(weights) {
    if (weights.has('layer.0.mlp.gate_proj.weight') && weights.has('layer.31.norm1.weight')) return HUGE;
    return weights.has('layer.23.attention.o_proj.bias') ? LARGE : undefined;
  },

  outputs: () => ['last_hidden_state', 'image_embeds'],

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
        ...['q_proj', 'v_proj', 'o_proj'].flatMap((name) => both(`${layer}.attention.${name}`, [d, d])),
        [`${layer}.attention.k_proj.weight`, [d, d]],
        ...(isGated(config) ? both(`${layer}.mlp.gate_proj`, [m, d]) : []),
        ...both(`${layer}.mlp.up_proj`, [m, d]),
        ...both(`${layer}.mlp.down_proj`, [d, m]),
        [`${layer}.layer_scale1.lambda1`, [d]],
        [`${layer}.layer_scale2.lambda1`, [d]],
      ] as [string, Shape][];
    }).flat();
    const required = new Map<string, Shape>([
      ['embeddings.cls_token', [1, 1, d]],
      ['embeddings.register_tokens', [1, REGISTERS, d]],
      ...both(PATCHES, [d, 3, p, p]),
      ...both('norm', [d]),
      ...layers,
    ]);
    return { required, optional: new Map() };
  },

  outputShape: (output, config) =>
    output === 'image_embeds' ? [config.hiddenSize] : [tokensOf(config), config.hiddenSize],
  prefixTokens: PREFIX_TOKENS,
  tokens: tokensOf,
  keepsFullPrecision: () => false,
  resample: (width, height, crop, { imageSize }) => clipResampling(width, height, imageSize, crop),
  extraInputs: [],

  quantization(config) {
    const layers = Array.from({ length: config.layers }, (_none, i) => layerName(i));
    // A gate times a value has no smallest result.
    const inputFloor = isGated(config) ? undefined : ACTIVATION_FLOORS[config.activation];
    const wide = isGated(config) ? ['gate_proj', 'up_proj'] : ['up_proj'];
    return {
      afterNorm: layers.flatMap((layer) => [
        { norm: `${layer}.norm1`, linears: QKV.map((name) => `${layer}.attention.${name}`) },
        { norm: `${layer}.norm2`, linears: wide.map((name) => `${layer}.mlp.${name}`) },
      ]),
      queriesAndKeys: layers.flatMap((layer) => [QKV[0], QKV[1]].map((name) => `${layer}.attention.${name}`)),
      others: layers.flatMap((layer) => [
        { name: `${layer}.attention.o_proj` },
        { name: `${layer}.mlp.down_proj`, ...(inputFloor === undefined ? {} : { inputFloor }) },
      ]),
    };
  },

  embed({ g, weights, config }, pixels) {
    const { hiddenSize: d } = config;
    const { weight, bias } = weights.norm(PATCHES);
    const patches = embedPatches(g, pixels, weight, bias, config);
    const classToken = expandToBatch(g, weights.value('embeddings.cls_token'), pixels, 1, d);
    const registers = expandToBatch(g, weights.value('embeddings.register_tokens'), pixels, REGISTERS, d);
    return flatten(g, g.op('Concat', [classToken, registers, patches], { axis: 1 }), config);
  },

  layer(build, x, index) {
    const { g, weights, config } = build;
    const layer = layerName(index);
    const scaled = (value: Value, name: string): Value =>
      g.op('Mul', [value, weights.value(`${layer}.${name}.lambda1`)]);

    const normed = norm(build, x, `${layer}.norm1`);
    const [q, k, v] = QKV.map((name) => {
      const projected = project(build, normed, `${layer}.attention.${name}`, { bias: name !== 'k_proj' });
      return asSequences(build, projected);
    }) as [Value, Value, Value];
    const mixed = flatten(
      g,
      attention(g, rotate(build, q), rotate(build, k), v, config.heads, config.hiddenSize / config.heads),
      config,
    );
    const middle = g.op('Add', [x, scaled(project(build, mixed, `${layer}.attention.o_proj`), 'layer_scale1')]);

    const normedAgain = norm(build, middle, `${layer}.norm2`);
    const up = project(build, normedAgain, `${layer}.mlp.up_proj`);
    const wide = isGated(config)
      ? g.op('Mul', [activation(g, project(build, normedAgain, `${layer}.mlp.gate_proj`), 'silu'), up])
      : activation(g, up, config.activation);
    return g.op('Add', [middle, scaled(project(build, wide, `${layer}.mlp.down_proj`), 'layer_scale2')]);
  },

  head(build, states) {
    const { g } = build;
    const last = asSequences(build, norm(build, states.last, 'norm'));
    return new Map<OutputName, Value>([
      ['last_hidden_state', last],
      ['image_embeds', classTokenOf(g, last)],
    ]);
  },
};

/** Rotary positions of the patches; class and register tokens are turned by nothing. */
function rotate({ g, config }: Build, x: Value): Value {
  const { cos, sin } = rotaryTables(config);
  const shape = [tokensOf(config), config.hiddenSize / config.heads / 2];
  const first = g.shared('rotary_first', { dtype: 'I64', shape: [1], data: BigInt64Array.of(0n) });
  return g.op(
    'RotaryEmbedding',
    [x, first, g.shared('rotary_cos', f32Tensor(shape, cos)), g.shared('rotary_sin', f32Tensor(shape, sin))],
    { interleaved: 0, num_heads: config.heads, rotary_embedding_dim: 0 },
    'com.microsoft',
  );
}

/** `[T, head size / 2]`: a quarter of the head follows the row, a quarter the column, both in -1..1 at patch centres. */
function rotaryTables(config: VisionConfig): { cos: Float32Array; sin: Float32Array } {
  const f = Math.fround;
  const side = Math.floor(config.imageSize / config.patchSize);
  const half = config.hiddenSize / config.heads / 2;
  const quarter = half / 2;
  const frequencies = Array.from({ length: quarter }, (_none, i) => f(1 / f(ROPE_THETA ** f(i * f(4 / (2 * half))))));
  const cos = new Float32Array(tokensOf(config) * half).fill(1, 0, PREFIX_TOKENS * half);
  const sin = new Float32Array(tokensOf(config) * half);
  for (let patch = 0; patch < side * side; patch += 1) {
    [Math.floor(patch / side), patch % side].forEach((place, axis) => {
      const coordinate = f(f(2 * f(f(place + 0.5) / side)) - 1);
      frequencies.forEach((frequency, i) => {
        const angle = f(f(2 * Math.PI * coordinate) * frequency);
        const at = (PREFIX_TOKENS + patch) * half + axis * quarter + i;
        cos[at] = Math.cos(angle);
        sin[at] = Math.sin(angle);
      });
    });
  }
  return { cos, sin };
}
