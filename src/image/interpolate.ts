/**
 * Resampling of IMAGE tensors in the fp32 arithmetic of PyTorch's `interpolate` without antialiasing: nearest-exact,
 * bilinear, bicubic (a = -0.75) and area (adaptive average).
 *
 * Equal to the last bit but for one case: the area mean of a whole picture, which PyTorch adds up in another order. Where
 * products are added with one rounding, PyTorch is compiled to fused instructions. The antialiased kin is resample.ts, Pillow's filter lanczos.ts.
 *
 * Source: PyTorch, aten/src/ATen/native/cpu/UpSampleKernel.cpp and AdaptiveAvgPoolKernel.cpp (formulas restated);
 * test/golden/nodes holds values recorded from it.
 */
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import { inSlices } from './slices.js';

export type InterpolationMethod = 'nearest-exact' | 'bilinear' | 'area' | 'bicubic';

/** A part of a picture, in pixels. */
export interface Window {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

const f = Math.fround;
const CUBIC_TAPS = 4;
/** The cubic's parameter. */
const A = -0.75;
/** a·b + c, rounded once: the product of two fp32 values is exact in a double. */
const fma = (a: number, b: number, c: number): number => f(a * b + c);

/** Which samples an output takes, and how much of each: a fixed number of entries per output. */
interface AxisTaps {
  readonly indices: Int32Array;
  readonly weights: Float32Array;
}

/**
 * Resamples a window of every picture of a batch.
 *
 * @param images f32 `[B, H, W, C]`
 * @returns f32 `[B, height, width, C]`, owned by the caller
 */
export async function interpolate(
  images: F32Tensor,
  window: Window,
  width: number,
  height: number,
  method: InterpolationMethod,
  signal?: AbortSignal,
): Promise<F32Tensor> {
  const [batch = 0, , fullWidth = 0, channels = 0] = images.shape;
  const out = new Float32Array(batch * height * width * channels);
  const lineLength = fullWidth * channels;
  const imageLength = images.data.length / Math.max(1, batch);
  const origin = window.top * lineLength + window.left * channels;
  const row = KERNELS[method](window, width, height);
  await inSlices(
    batch * height,
    width * channels,
    (begin, end) => {
      for (let line = begin; line < end; line += 1) {
        const image = Math.floor(line / height);
        const source = images.data.subarray(image * imageLength + origin, (image + 1) * imageLength);
        const target = out.subarray(line * width * channels, (line + 1) * width * channels);
        row(source, lineLength, channels, line % height, target);
      }
    },
    signal,
  );
  return f32Tensor([batch, height, width, channels], out);
}

/** Computes one row of the result. */
type RowKernel = (
  source: Float32Array,
  lineLength: number,
  channels: number,
  row: number,
  target: Float32Array,
) => void;

function nearestRow(window: Window, width: number, height: number): RowKernel {
  const columns = nearestIndices(window.width, width);
  const rows = nearestIndices(window.height, height);
  return (source, lineLength, channels, row, target) => {
    const line = (rows[row] ?? 0) * lineLength;
    for (let x = 0; x < width; x += 1) {
      const at = line + (columns[x] ?? 0) * channels;
      for (let channel = 0; channel < channels; channel += 1)
        target[x * channels + channel] = source[at + channel] ?? 0;
    }
  };
}

/** Four neighbours, each with the product of its two weights. */
function bilinearRow(window: Window, width: number, height: number): RowKernel {
  const columns = linearTaps(window.width, width);
  const rows = linearTaps(window.height, height);
  return (source, lineLength, channels, row, target) => {
    const [upper = 0, lower = 0] = rows.indices.subarray(row * 2);
    const [high = 0, low = 0] = rows.weights.subarray(row * 2);
    for (let x = 0; x < width; x += 1) {
      const left = (columns.indices[x * 2] ?? 0) * channels;
      const right = (columns.indices[x * 2 + 1] ?? 0) * channels;
      const near = columns.weights[x * 2] ?? 0;
      const far = columns.weights[x * 2 + 1] ?? 0;
      const weights = [f(high * near), f(high * far), f(low * near), f(low * far)] as const;
      for (let channel = 0; channel < channels; channel += 1) {
        const top = upper * lineLength + channel;
        const bottom = lower * lineLength + channel;
        let sum = f((source[top + right] ?? 0) * weights[1]);
        sum = fma(source[top + left] ?? 0, weights[0], sum);
        sum = fma(source[bottom + left] ?? 0, weights[2], sum);
        target[x * channels + channel] = fma(source[bottom + right] ?? 0, weights[3], sum);
      }
    }
  };
}

/** Sixteen neighbours: along the lines first, then across them. */
function bicubicRow(window: Window, width: number, height: number): RowKernel {
  const columns = cubicTaps(window.width, width);
  const rows = cubicTaps(window.height, height);
  return (source, lineLength, channels, row, target) => {
    const lines = rows.indices.subarray(row * CUBIC_TAPS, (row + 1) * CUBIC_TAPS);
    const across = rows.weights.subarray(row * CUBIC_TAPS, (row + 1) * CUBIC_TAPS);
    const sums = new Float32Array(CUBIC_TAPS);
    for (let x = 0; x < width; x += 1) {
      const [a = 0, b = 0, c = 0, d = 0] = columns.indices.subarray(x * CUBIC_TAPS, (x + 1) * CUBIC_TAPS);
      const along = columns.weights.subarray(x * CUBIC_TAPS, (x + 1) * CUBIC_TAPS);
      for (let channel = 0; channel < channels; channel += 1) {
        for (let i = 0; i < CUBIC_TAPS; i += 1) {
          const line = (lines[i] ?? 0) * lineLength + channel;
          const value = (column: number): number => source[line + column * channels] ?? 0;
          sums[i] = weighFour(value(a), value(b), value(c), value(d), along);
        }
        const [first = 0, second = 0, third = 0, fourth = 0] = sums;
        target[x * channels + channel] = weighFour(first, second, third, fourth, across);
      }
    }
  };
}

/** The order of PyTorch's fused instructions: the second product first. */
function weighFour(a: number, b: number, c: number, d: number, weights: Float32Array): number {
  const sum = fma(a, weights[0] ?? 0, f(b * (weights[1] ?? 0)));
  return fma(d, weights[3] ?? 0, fma(c, weights[2] ?? 0, sum));
}

/** The mean of all samples that an output covers, in whole pixels. */
function areaRow(window: Window, width: number, height: number): RowKernel {
  const begin = (index: number, from: number, to: number): number => Math.floor((index * from) / to);
  const end = (index: number, from: number, to: number): number => Math.ceil(((index + 1) * from) / to);
  return (source, lineLength, channels, row, target) => {
    const top = begin(row, window.height, height);
    const bottom = end(row, window.height, height);
    for (let x = 0; x < width; x += 1) {
      const left = begin(x, window.width, width);
      const right = end(x, window.width, width);
      for (let channel = 0; channel < channels; channel += 1) {
        let sum = 0;
        for (let y = top; y < bottom; y += 1) {
          for (let column = left; column < right; column += 1)
            sum = f(sum + (source[y * lineLength + column * channels + channel] ?? 0));
        }
        target[x * channels + channel] = f(f(sum / (bottom - top)) / (right - left));
      }
    }
  };
}

const KERNELS: Readonly<Record<InterpolationMethod, (window: Window, width: number, height: number) => RowKernel>> = {
  'nearest-exact': nearestRow,
  bilinear: bilinearRow,
  area: areaRow,
  bicubic: bicubicRow,
};

/** Where the middle of an output lies among the samples. */
function position(index: number, ratio: number): number {
  return fma(ratio, index + 0.5, -0.5);
}

function nearestIndices(from: number, to: number): Int32Array {
  const ratio = f(from / to);
  return Int32Array.from({ length: to }, (_none, i) => Math.min(from - 1, Math.floor(f((i + 0.5) * ratio))));
}

function emptyTaps(taps: number, count: number): AxisTaps {
  return { indices: new Int32Array(count * taps), weights: new Float32Array(count * taps) };
}

function linearTaps(from: number, to: number): AxisTaps {
  const axis = emptyTaps(2, to);
  const ratio = f(from / to);
  for (let i = 0; i < to; i += 1) {
    const at = from === to ? i : Math.max(0, position(i, ratio));
    const low = Math.min(from - 1, Math.floor(at));
    const part = Math.min(1, Math.max(0, f(at - low)));
    axis.indices.set([low, Math.min(from - 1, low + 1)], i * 2);
    axis.weights.set([f(1 - part), part], i * 2);
  }
  return axis;
}

function cubicTaps(from: number, to: number): AxisTaps {
  const axis = emptyTaps(CUBIC_TAPS, to);
  const ratio = f(from / to);
  for (let i = 0; i < to; i += 1) {
    const at = position(i, ratio);
    const low = Math.min(from - 1, Math.floor(at));
    const part = Math.min(1, Math.max(0, f(at - low)));
    const rest = f(1 - part);
    for (let tap = 0; tap < CUBIC_TAPS; tap += 1)
      axis.indices[i * CUBIC_TAPS + tap] = Math.min(from - 1, Math.max(0, low - 1 + tap));
    axis.weights.set([cubicFar(f(part + 1)), cubicNear(part), cubicNear(rest), cubicFar(f(rest + 1))], i * CUBIC_TAPS);
  }
  return axis;
}

/** The cubic up to one sample away. */
function cubicNear(x: number): number {
  return f(f(f(fma(A + 2, x, -(A + 3)) * x) * x) + 1);
}

/** The cubic from one to two samples away. */
function cubicFar(x: number): number {
  return f(f(fma(fma(A, x, -5 * A), x, 8 * A) * x) - 4 * A);
}
