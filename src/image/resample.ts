/**
 * Antialiased bicubic resampling of one axis, in the fp32 arithmetic of PyTorch's `interpolate(mode="bicubic",
 * antialias=True)`: half-pixel centres, the a = -0.5 cubic, windows cut at the borders and renormalised.
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

const f = Math.fround;

/** The cubic of Catmull and Rom at an fp32 distance, one rounding a step. */
function cubic(distance: number): number {
  const x = Math.abs(distance);
  if (x < 1) return f(f(f(f(f(f(1.5 * x) - 2.5) * x) * x)) + 1);
  if (x < 2) return f(f(f(f(f(f(f(-0.5 * x) + 2.5) * x) - 4) * x)) + 2);
  return 0;
}

/**
 * Weights for outputs `[first, first + count)` of an axis of `from` samples that is resampled to `to`.
 */
export function axisWeights(from: number, to: number, first: number, count: number): AxisWeights {
  const ratio = f(from / to);
  const support = ratio >= 1 ? f(2 * ratio) : 2;
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
      const weight = cubic(f((f(j - center) + 0.5) * inverse));
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
