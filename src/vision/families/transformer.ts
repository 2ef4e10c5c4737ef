/** What the CLIP and SigLIP towers share: Hugging Face's encoder layers. */
import { activation, attention, layerNorm, linear, type GraphBuilder, type Value } from '../../onnx/index.js';
import type { Shape } from '../../tensor/tensor.js';
import { patchCount, type VisionConfig } from '../config.js';
import type { WeightValues } from './family.js';

const layerName = (index: number): string => `vision_model.encoder.layers.${index}`;

/** Shapes of all encoder layers. */
export function encoderShapes(config: VisionConfig): [string, Shape][] {
  const { hiddenSize: d, intermediateSize: m } = config;
  return Array.from({ length: config.layers }, (_none, i) => {
    const layer = layerName(i);
    const norms = ['layer_norm1', 'layer_norm2'].flatMap((name): [string, Shape][] => [
      [`${layer}.${name}.weight`, [d]],
      [`${layer}.${name}.bias`, [d]],
    ]);
    const projections = ['q_proj', 'k_proj', 'v_proj', 'out_proj'].flatMap((name): [string, Shape][] => [
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
  const flat = g.reshape(conv, [0, hiddenSize, patchCount(config)]);
  return g.op('Transpose', [flat], { perm: [0, 2, 1] });
}

/** Output of every layer, in order. */
export function encoderLayers(
  g: GraphBuilder,
  input: Value,
  weights: WeightValues,
  config: VisionConfig,
  tokens: number,
): Value[] {
  const { hiddenSize: d, intermediateSize: m, heads, layerNormEps: epsilon } = config;
  const square = { in: d, out: d };
  const states: Value[] = [];
  let x = input;
  for (let i = 0; i < config.layers; i += 1) {
    const layer = layerName(i);
    const normed = layerNorm(g, x, weights.norm(`${layer}.layer_norm1`), epsilon);
    const [q, k, v] = (['q_proj', 'k_proj', 'v_proj'] as const).map((name) =>
      linear(g, normed, weights.linear(`${layer}.self_attn.${name}`), tokens, square),
    ) as [Value, Value, Value];
    const mixed = attention(g, q, k, v, heads);
    x = g.op('Add', [x, linear(g, mixed, weights.linear(`${layer}.self_attn.out_proj`), tokens, square)]);
    const normedAgain = layerNorm(g, x, weights.norm(`${layer}.layer_norm2`), epsilon);
    const wide = linear(g, normedAgain, weights.linear(`${layer}.mlp.fc1`), tokens, { in: d, out: m });
    const narrow = linear(g, activation(g, wide, config.activation), weights.linear(`${layer}.mlp.fc2`), tokens, {
      in: m,
      out: d,
    });
    x = g.op('Add', [x, narrow]);
    states.push(x);
  }
  return states;
}

/** ComfyUI's only test of depth: is there a layer of this index. */
export function hasLayer(weights: ReadonlyMap<string, unknown>, index: number): boolean {
  return weights.has(`${layerName(index)}.layer_norm1.weight`);
}

export const POSITIONS = 'vision_model.embeddings.position_embedding.weight';
export const FIRST_NORM = `${layerName(0)}.layer_norm1.weight`;
