/**
 * The arithmetic of quantisation: which channels are outliers, how channels are evened out, and rounding to 8 bits.
 *
 * Dividing channel j of a norm's result by s_j and multiplying column j of the weights that read it changes nothing in
 * exact arithmetic. With s_j = sqrt(a_j / w_j), a_j being the largest value of the channel and w_j that of the column, the
 * two share the difficulty. Channels far beyond the others are not evened out but multiplied in fp32.
 */
import { LOW_STEPS } from '../../onnx/index.js';

/**
 * From coarse and fast to fine: one number of 8 bits for every weight and input; two where attention is steered, by queries
 * and keys; two everywhere.
 *
 * An error in a query or key is not averaged out: where large channels make attention sharp, it looks elsewhere.
 */
export const SCHEMES = ['int8', 'int8-qk', 'int8x2'] as const;
export type Scheme = (typeof SCHEMES)[number];

/** A channel is an outlier from this multiple of the median on. */
const OUTLIER_FACTOR = 4;
/** More are no outliers any more; a product with few channels costs next to nothing. */
const MAX_OUTLIERS = 32;
/** A normed value is seldom farther from zero than this many deviations; probes see only some of them. */
const NORMED_REACH = 3.5;
const STEPS = 127;

/** f32 `[out, in]` */
export interface Matrix {
  readonly data: Float32Array;
  readonly rows: number;
  readonly columns: number;
}

/**
 * Largest value to expect of every channel of a norm's result: what its gain and bias promise, or more where probe
 * pictures gave more.
 */
export function channelReach(gain: Float32Array, bias: Float32Array, observed: Float32Array): Float32Array {
  return Float32Array.from(gain, (value, j) =>
    Math.max(NORMED_REACH * Math.abs(value) + Math.abs(bias[j] ?? 0), observed[j] ?? 0),
  );
}

/** Channels to multiply in fp32, ascending; none where there are no outliers. */
export function findOutliers(reach: Float32Array): number[] {
  const median = reach.toSorted()[reach.length >> 1] ?? 0;
  return [...reach.keys()]
    .filter((j) => (reach[j] ?? 0) > OUTLIER_FACTOR * median)
    .sort((a, b) => (reach[b] ?? 0) - (reach[a] ?? 0))
    .slice(0, MAX_OUTLIERS)
    .sort((a, b) => a - b);
}

/** s_j of every channel, its geometric mean over the others being 1; an outlier becomes as large as they are. */
export function smoothingFactors(
  reach: Float32Array,
  weights: readonly Matrix[],
  outliers: readonly number[],
): Float32Array {
  const isOutlier = new Set(outliers);
  const columns = largestOfColumns(weights, reach.length);
  const factors = Float32Array.from(reach, (a, j) => {
    const w = columns[j] ?? 0;
    return a > 0 && w > 0 ? Math.sqrt(a / w) : 1;
  });
  let logSum = 0;
  factors.forEach((factor, j) => {
    if (!isOutlier.has(j)) logSum += Math.log(factor);
  });
  const mean = Math.exp(logSum / Math.max(1, reach.length - outliers.length));
  const evened = reach.map((a, j) => a / ((factors[j] ?? 1) / mean)).toSorted();
  const median = evened[evened.length >> 1] ?? 1;
  return factors.map((factor, j) => (isOutlier.has(j) ? (reach[j] ?? 1) / median : factor / mean));
}

function largestOfColumns(weights: readonly Matrix[], columns: number): Float32Array {
  const largest = new Float32Array(columns);
  for (const { data, rows } of weights) {
    for (let row = 0, at = 0; row < rows; row += 1) {
      for (let j = 0; j < columns; j += 1, at += 1) {
        const value = Math.abs(data[at] ?? 0);
        if (value > (largest[j] ?? 0)) largest[j] = value;
      }
    }
  }
  return largest;
}

/** Multiplies column j by factor j, in place. */
export function scaleColumns({ data, rows, columns }: Matrix, factors: Float32Array): void {
  for (let row = 0, at = 0; row < rows; row += 1) {
    for (let j = 0; j < columns; j += 1, at += 1) data[at] = (data[at] ?? 0) * (factors[j] ?? 1);
  }
}

/** Takes columns out: f32 `[n, out]`; zeros stay behind. */
export function takeColumns({ data, rows, columns }: Matrix, taken: readonly number[]): Float32Array {
  const out = new Float32Array(taken.length * rows);
  taken.forEach((column, i) => {
    for (let row = 0; row < rows; row += 1) {
      out[i * rows + row] = data[row * columns + column] ?? 0;
      data[row * columns + column] = 0;
    }
  });
  return out;
}

export interface QuantizedMatrix {
  /** I8 `[in, out]` */
  readonly levels: Int8Array;
  /** f32 `[out]` */
  readonly scale: Float32Array;
  /** I8 `[in, out]`, in steps 254 times finer; two-term scheme only. */
  readonly low?: Int8Array;
  /** f32 `[out]`: sum of the weights of every output channel, as rounded. */
  readonly sums: Float32Array;
}

/** Side of the squares that are turned at once: the lines that are written to stay in the processor's first cache. */
const TILE = 64;
/** 1.5·2^52: a number of moderate size that is added to it and taken off again is rounded, half to even. */
const WHOLE = 6_755_399_441_055_744;

/** Rounds to 8 bits with a scale per output channel; `hasLow` keeps what is left over in 8 bits more. */
export function quantizeMatrix(matrix: Matrix, { hasLow }: { hasLow: boolean }): QuantizedMatrix {
  const { data, rows, columns } = matrix;
  const levels = new Int8Array(data.length);
  const low = hasLow ? new Int8Array(data.length) : undefined;
  const scale = stepsOfRows(matrix);
  const sums = new Float64Array(rows);
  for (let firstRow = 0; firstRow < rows; firstRow += TILE) {
    const endRow = Math.min(rows, firstRow + TILE);
    for (let first = 0; first < columns; first += TILE) {
      const end = Math.min(columns, first + TILE);
      for (let row = firstRow; row < endRow; row += 1) {
        const step = scale[row] ?? 1;
        let sum = 0;
        for (let j = first, at = row * columns + first; j < end; j += 1, at += 1) {
          const exact = (data[at] ?? 0) / step;
          const level = exact + WHOLE - WHOLE;
          levels[j * rows + row] = level;
          sum += level;
          if (low !== undefined) low[j * rows + row] = (exact - level) * LOW_STEPS + WHOLE - WHOLE;
        }
        sums[row] = (sums[row] ?? 0) + sum;
      }
    }
  }
  const weightSums = Float32Array.from(sums, (sum, row) => sum * (scale[row] ?? 1));
  return { levels, scale, sums: weightSums, ...(low === undefined ? {} : { low }) };
}

/** What one step of every output channel stands for; 1 for a channel of zeros. */
function stepsOfRows({ data, rows, columns }: Matrix): Float32Array {
  const steps = new Float32Array(rows);
  for (let row = 0, at = 0; row < rows; row += 1) {
    let largest = 0;
    for (const end = at + columns; at < end; at += 1) largest = Math.max(largest, Math.abs(data[at] ?? 0));
    steps[row] = Math.fround(largest / STEPS) || 1;
  }
  return steps;
}
