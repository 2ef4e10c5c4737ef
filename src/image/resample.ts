/**
 * Antialiased resampling of one axis, in the fp32 arithmetic of PyTorch's `interpolate(antialias=True)`: half-pixel
 * centres, the a = -0.5 cubic or the triangle, windows cut at the borders and renormalised.
 *
 * Every step rounds to fp32 where PyTorch does; that is what makes 8-bit results equal.
 *
 * Source: PyTorch, aten/src/ATen/native/cpu/UpSampleKernel.cpp (formulas restated); measured against ComfyUI.
 */

/** Weights of the samples of one output range; each output has `counts[i]` inputs from `starts[i]` on. */
export interface AxisWeights {
  readonly starts: Int32Array;
  readonly counts: Int32Array;
  /** `[outputs, stride]`, fp32 values. */
  readonly weights: Float32Array;
  readonly stride: number;
}

export type Filter = 'bicubic' | 'bilinear';

const f = Math.fround;

/** The cubic of Catmull and Rom at an fp32 distance, one rounding a step. */
function cubic(distance: number): number {
  const x = Math.abs(distance);
  if (x < 1) return f(f(f(f(f(f(1.5 * x) - 2.5) * x) * x)) + 1);
  if (x < 2) return f(f(f(f(f(f(f(-0.5 * x) + 2.5) * x) - 4) * x)) + 2);
  return 0;
}

/** The triangle, at an fp32 distance. */
function triangle(distance: number): number {
  const x = Math.abs(distance);
  return x < 1 ? f(1 - x) : 0;
}

/** Reach of a filter on one side, in samples, and its shape. */
const FILTERS = {
  bicubic: { reach: 2, weigh: cubic },
  bilinear: { reach: 1, weigh: triangle },
} as const satisfies Record<Filter, unknown>;

/**
 * Weights for outputs `[first, first + count)` of an axis of `from` samples that is resampled to `to`.
 */
export function axisWeights(filter: Filter, from: number, to: number, first: number, count: number): AxisWeights {
  const { reach, weigh } = FILTERS[filter];
  const ratio = f(from / to);
  const support = ratio >= 1 ? f(reach * ratio) : reach;
  const inverse = ratio >= 1 ? f(1 / ratio) : 1;
  const stride = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(count);
  const counts = new Int32Array(count);
  const weights = new Float32Array(count * stride);
  for (let i = 0; i < count; i += 1) {
    const center = f(ratio * (first + i + 0.5));
    const low = Math.max(0, Math.trunc(f(center - support) + 0.5));
    const high = Math.min(from, Math.trunc(f(center + support) + 0.5));
    let total = 0;
    for (let j = low; j < high; j += 1) {
      const weight = weigh(f((f(j - center) + 0.5) * inverse));
      weights[i * stride + j - low] = weight;
      total = f(total + weight);
    }
    for (let j = 0; j < high - low; j += 1) {
      const at = i * stride + j;
      weights[at] = f((weights[at] ?? 0) / total);
    }
    starts[i] = low;
    counts[i] = high - low;
  }
  return { starts, counts, weights, stride };
}

/** The same weights as a dense matrix, f32 `[to, from]`: its product with samples is the whole axis resampled. */
export function axisMatrix(filter: Filter, from: number, to: number): Float32Array {
  const { starts, counts, weights, stride } = axisWeights(filter, from, to, 0, to);
  const matrix = new Float32Array(to * from);
  for (let i = 0; i < to; i += 1) {
    const begin = i * stride;
    matrix.set(weights.subarray(begin, begin + (counts[i] ?? 0)), i * from + (starts[i] ?? 0));
  }
  return matrix;
}
