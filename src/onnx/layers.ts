/**
 * Layers that every transformer has. No model names here.
 *
 * Hidden states are flat, `[B·T, D]`, but where attention needs to know its sequences.
 *
 * Weights are values of the graph already; their layout is PyTorch's: linear weights `[out, in]`.
 */
import type { GraphBuilder, Value } from './graph-builder.js';
import { linearInt8 } from './int8.js';

export interface LinearWeights {
  /** `[out, in]`, unless `int8` says otherwise. */
  readonly weight: Value;
  readonly bias?: Value;
  /** Present where the weights are whole numbers of 8 bits. */
  readonly int8?: Int8Weights;
}

/** `weight` is then I8 `[in, out]`: the product of a row is scaled back per output channel, and per row. */
export interface Int8Weights {
  /** f32 `[out]`: what one step of a weight stands for. */
  readonly scale: Value;
  /** I8 `[in, out]`: what rounding left over, in steps 254 times finer. Present in the two-term scheme. */
  readonly low?: Value;
  /** No input lies below this; the bias already makes up for the shift. */
  readonly inputFloor?: number;
  /** Input channels that are multiplied in fp32: their numbers I64 `[n]` and weights f32 `[n, out]`. */
  readonly outliers?: { readonly index: Value; readonly weight: Value };
}

export type Activation = 'gelu' | 'gelu_tanh' | 'quick_gelu' | 'silu';

/** x·Wᵀ + b for `[rows, in]`. Gemm takes `[out, in]` as it is stored. */
export function linear(g: GraphBuilder, x: Value, weights: LinearWeights): Value {
  const { weight, bias, int8 } = weights;
  if (int8 !== undefined) return linearInt8(g, x, weight, bias, int8);
  return g.op('Gemm', bias === undefined ? [x, weight] : [x, weight, bias], { transB: 1 });
}

export function layerNorm(g: GraphBuilder, x: Value, weights: { weight: Value; bias: Value }, epsilon: number): Value {
  return g.op('LayerNormalization', [x, weights.weight, weights.bias], { axis: -1, epsilon: { float: epsilon } });
}

/** softmax(q·kᵀ / sqrt(W))·v of `[B, T, heads·W]` values, heads joined again. */
export function attention(g: GraphBuilder, q: Value, k: Value, v: Value, heads: number, headWidth: number): Value {
  if (g.fusesAttention) return g.op('MultiHeadAttention', [q, k, v], { num_heads: heads }, 'com.microsoft');
  const split = (x: Value, perm: readonly number[]): Value =>
    g.op('Transpose', [g.reshape(x, [0, 0, heads, headWidth])], { perm });
  const scaled = g.op('Mul', [split(q, [0, 2, 1, 3]), g.scalar(1 / Math.sqrt(headWidth))]);
  const shares = g.op('Softmax', [g.op('MatMul', [scaled, split(k, [0, 2, 3, 1])])], { axis: -1 });
  const mixed = g.op('Transpose', [g.op('MatMul', [shares, split(v, [0, 2, 1, 3])])], { perm: [0, 2, 1, 3] });
  return g.reshape(mixed, [0, 0, heads * headWidth]);
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

/** The first token of `[B, T, D]`, as `[B, D]`. */
export function classTokenOf(g: GraphBuilder, x: Value): Value {
  return g.op('Gather', [x, g.constant({ dtype: 'I64', shape: [], data: BigInt64Array.of(0n) })], { axis: 1 });
}
