/** What the CLIP and SigLIP towers share: Hugging Face's encoder layers. */
import {
  activation,
  attention,
  layerNorm,
  linear,
  type Activation,
  type GraphBuilder,
  type Value,
} from '../../onnx/index.js';
import type { Shape } from '../../tensor/tensor.js';
import { patchCount, type VisionConfig } from '../config.js';
import type { Build, QuantizationPlan } from './family.js';

const layerName = (index: number): string => `vision_model.encoder.layers.${index}`;
const QKV = ['q_proj', 'k_proj', 'v_proj'] as const;

/** Shapes of all encoder layers. */
export function encoderShapes(config: VisionConfig): [string, Shape][] {
  const { hiddenSize: d, intermediateSize: m } = config;
  return Array.from({ length: config.layers }, (_none, i) => {
    const layer = layerName(i);
    const norms = ['layer_norm1', 'layer_norm2'].flatMap((name): [string, Shape][] => [
      [`${layer}.${name}.weight`, [d]],
      [`${layer}.${name}.bias`, [d]],
    ]);
    const projections = [...QKV, 'out_proj'].flatMap((name): [string, Shape][] => [
      [`${layer}.self_attn.${name}.weight`, [d, d]],
      [`${layer}.self_attn.${name}.bias`, [d]],
    ]);
    const mlp: [string, Shape][] = [
      [`${layer}.mlp.fc1.weight`, [m, d]],
      [`${layer}.mlp.fc1.bias`, [m]],
      [`${layer}.mlp.fc2.weight`, [d, m]],
      [`${layer}.mlp.fc2.bias`, [d]],
    ];
    return [...norms, ...projections, ...mlp];
  }).flat();
}

/** Patches as tokens `[B, n·n, D]`: rows first, then columns. */
export function embedPatches(
  g: GraphBuilder,
  pixels: Value,
  weight: Value,
  bias: Value | undefined,
  config: VisionConfig,
): Value {
  const { patchSize, hiddenSize } = config;
  const side = [patchSize, patchSize];
  const conv = g.op('Conv', bias === undefined ? [pixels, weight] : [pixels, weight, bias], {
    kernel_shape: side,
    strides: side,
  });
  const flat = g.reshape(conv, [0, hiddenSize, -1]);
  return g.op('Transpose', [flat], { perm: [0, 2, 1] });
}

/** `[B, T, D]`, all tokens of the model, as the flat hidden states that layers take. */
export function flatten(g: GraphBuilder, x: Value, config: VisionConfig): Value {
  return g.declare(g.reshape(x, [-1, config.hiddenSize]), ['rows', config.hiddenSize]);
}

/** Flat hidden states as the `[B, T, D]` that attention and clients take. */
export function asSequences({ g, config, sequence }: Build, x: Value): Value {
  return g.declare(g.op('Reshape', [x, sequence]), ['batch', 'tokens', config.hiddenSize]);
}

/** A layer norm by the name of its weights. */
export function norm({ g, weights, config, observe }: Build, x: Value, name: string): Value {
  const result = layerNorm(g, x, weights.norm(name), config.layerNormEps);
  observe?.(name, result);
  return result;
}

/** A linear layer by the name of its weights. */
export function project({ g, weights }: Build, x: Value, name: string, options?: { bias: boolean }): Value {
  return linear(g, x, weights.linear(name, options));
}

/** What an activation gives at least; its result can be quantised from there on. */
export const ACTIVATION_FLOORS: Readonly<Partial<Record<Activation, number>>> = {
  gelu: -0.17,
  gelu_tanh: -0.1701,
  quick_gelu: -0.1641,
};

/** One encoder layer. */
export function encoderLayer(build: Build, x: Value, index: number): Value {
  const { g, config } = build;
  const layer = layerName(index);
  const normed = norm(build, x, `${layer}.layer_norm1`);
  const [q, k, v] = QKV.map((name) => asSequences(build, project(build, normed, `${layer}.self_attn.${name}`))) as [
    Value,
    Value,
    Value,
  ];
  const mixed = flatten(g, attention(g, q, k, v, config.heads, config.hiddenSize / config.heads), config);
  const middle = g.op('Add', [x, project(build, mixed, `${layer}.self_attn.out_proj`)]);
  const wide = project(build, norm(build, middle, `${layer}.layer_norm2`), `${layer}.mlp.fc1`);
  return g.op('Add', [middle, project(build, activation(g, wide, config.activation), `${layer}.mlp.fc2`)]);
}

export function encoderQuantization({ layers: count, activation: kind }: VisionConfig): QuantizationPlan {
  const layers = Array.from({ length: count }, (_none, i) => layerName(i));
  const inputFloor = ACTIVATION_FLOORS[kind];
  return {
    afterNorm: layers.flatMap((layer) => [
      { norm: `${layer}.layer_norm1`, linears: QKV.map((name) => `${layer}.self_attn.${name}`) },
      { norm: `${layer}.layer_norm2`, linears: [`${layer}.mlp.fc1`] },
    ]),
    queriesAndKeys: layers.flatMap((layer) => [QKV[0], QKV[1]].map((name) => `${layer}.self_attn.${name}`)),
    others: layers.flatMap((layer) => [
      { name: `${layer}.self_attn.out_proj` },
      { name: `${layer}.mlp.fc2`, ...(inputFloor === undefined ? {} : { inputFloor }) },
    ]),
  };
}

/** ComfyUI's only test of depth: is there a layer of this index. */
export function hasLayer(weights: ReadonlyMap<string, unknown>, index: number): boolean {
  return weights.has(`${layerName(index)}.layer_norm1.weight`);
}

/** Tokens of a square picture whose size the configuration fixes. */
export function squareTokens(config: VisionConfig, prefixTokens: number): number {
  return patchCount(config) + prefixTokens;
}

export const POSITIONS = 'vision_model.embeddings.position_embedding.weight';
export const FIRST_NORM = `${layerName(0)}.layer_norm1.weight`;
