/** What the CLIP and SigLIP towers share: Hugging Face's encoder layers. */
import { activation, attention, layerNorm, linear, type GraphBuilder, type Value } from '../../onnx/index.js';
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

/** `[B, T, D]` as the flat hidden states that layers take. */
export function flatten(g: GraphBuilder, x: Value, config: VisionConfig): Value {
  return g.reshape(x, [-1, config.hiddenSize]);
}

/** One encoder layer. */
export function encoderLayer({ g, weights, config, sequence }: Build, x: Value, index: number): Value {
  const { heads, layerNormEps: epsilon } = config;
  const layer = layerName(index);
  const normed = layerNorm(g, x, weights.norm(`${layer}.layer_norm1`), epsilon);
  const [q, k, v] = QKV.map((name) =>
    g.op('Reshape', [linear(g, normed, weights.linear(`${layer}.self_attn.${name}`)), sequence]),
  ) as [Value, Value, Value];
  const mixed = flatten(g, attention(g, q, k, v, heads), config);
  const middle = g.op('Add', [x, linear(g, mixed, weights.linear(`${layer}.self_attn.out_proj`))]);
  const normedAgain = layerNorm(g, middle, weights.norm(`${layer}.layer_norm2`), epsilon);
  const wide = linear(g, normedAgain, weights.linear(`${layer}.mlp.fc1`));
  const narrow = linear(g, activation(g, wide, config.activation), weights.linear(`${layer}.mlp.fc2`));
  return g.op('Add', [middle, narrow]);
}

export function encoderQuantization(config: VisionConfig): QuantizationPlan {
  const layers = Array.from({ length: config.layers }, (_none, i) => layerName(i));
  return {
    afterNorm: layers.flatMap((layer) => [
      { norm: `${layer}.layer_norm1`, linears: QKV.map((name) => `${layer}.self_attn.${name}`) },
      { norm: `${layer}.layer_norm2`, linears: [`${layer}.mlp.fc1`] },
    ]),
    others: layers.flatMap((layer) => [`${layer}.self_attn.out_proj`, `${layer}.mlp.fc2`]),
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
