/**
 * Layers that every transformer has, on `[B, T, D]` values. No model names here.
 *
 * Weights are values of the graph already; their layout is PyTorch's: linear weights `[out, in]`.
 */
import type { GraphBuilder, Value } from './graph-builder.js';

export interface LinearWeights {
  /** `[out, in]` */
  readonly weight: Value;
  readonly bias?: Value;
}

export type Activation = 'gelu' | 'gelu_tanh' | 'quick_gelu' | 'silu';

/** x·Wᵀ + b for `[B, T, in]`, as one matrix product over all tokens. */
export function linear(
  g: GraphBuilder,
  x: Value,
  weights: LinearWeights,
  tokens: number,
  sizes: { in: number; out: number },
): Value {
  const flat = g.reshape(x, [-1, sizes.in]);
  return g.reshape(linear2d(g, flat, weights), [-1, tokens, sizes.out]);
}

/** x·Wᵀ + b for `[B, in]`. Gemm takes `[out, in]` as it is stored. */
export function linear2d(g: GraphBuilder, x: Value, { weight, bias }: LinearWeights): Value {
  return g.op('Gemm', bias === undefined ? [x, weight] : [x, weight, bias], { transB: 1 });
}

export function layerNorm(g: GraphBuilder, x: Value, weights: { weight: Value; bias: Value }, epsilon: number): Value {
  return g.op('LayerNormalization', [x, weights.weight, weights.bias], { axis: -1, epsilon: { float: epsilon } });
}

/** softmax(q·kᵀ / sqrt(D/heads))·v of `[B, T, D]` values, heads joined again. */
export function attention(g: GraphBuilder, q: Value, k: Value, v: Value, heads: number): Value {
  return g.op('MultiHeadAttention', [q, k, v], { num_heads: heads }, 'com.microsoft');
}

export function activation(g: GraphBuilder, x: Value, kind: Activation): Value {
  switch (kind) {
    case 'gelu':
      return g.op('Gelu', [x], { approximate: 'none' });
    case 'gelu_tanh':
      return g.op('Gelu', [x], { approximate: 'tanh' });
    case 'quick_gelu':
      return g.op('QuickGelu', [x], { alpha: { float: 1.702 } }, 'com.microsoft');
    case 'silu':
      return g.op('Mul', [x, g.op('Sigmoid', [x])]);
  }
}

/** Repeats `[1, T, D]` for every element of the batch of `like`. */
export function expandToBatch(g: GraphBuilder, x: Value, like: Value, tokens: number, width: number): Value {
  const batch = g.op('Shape', [like], { start: 0, end: 1 });
  return g.op('Expand', [x, g.op('Concat', [batch, g.ints([tokens, width])], { axis: 0 })]);
}
