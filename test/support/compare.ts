/** How tests compare tensors. */
import type { F32Tensor } from '../../src/tensor/tensor.js';

/** Largest absolute difference; infinite when shapes differ or a value is not a number. */
export function maxAbsDiff(got: F32Tensor | undefined, expected: F32Tensor): number {
  if (got?.shape.join() !== expected.shape.join()) return Infinity;
  let max = 0;
  for (let i = 0; i < expected.data.length; i += 1) {
    const delta = Math.abs((got.data[i] ?? NaN) - (expected.data[i] ?? NaN));
    if (Number.isNaN(delta)) return Infinity;
    max = Math.max(max, delta);
  }
  return max;
}

/** 1 - cosine over all values. */
export function cosineDistance(got: Float32Array, expected: Float32Array): number {
  let dot = 0;
  let a = 0;
  let b = 0;
  for (let i = 0; i < expected.length; i += 1) {
    const x = got[i] ?? NaN;
    const y = expected[i] ?? NaN;
    dot += x * y;
    a += x * x;
    b += y * y;
  }
  return 1 - dot / Math.sqrt(a * b);
}
