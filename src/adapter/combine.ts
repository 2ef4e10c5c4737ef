/**
 * Several pictures as one: arithmetic on the inputs of a projection, over the batch.
 *
 * Source: ComfyUI_IPAdapter_plus, combine modes of its nodes (formulas restated).
 */
import { InvalidRequestError } from '../common/errors.js';
import { elementCount, f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import { joinBatch } from '../vision/index.js';

/**
 * `concat` keeps all pictures, and the layers attend to all their tokens together; the others make one of them:
 * `subtract` is the first less the mean of the rest, `norm average` the mean of the pictures after every value was
 * divided by its root of squares over the pictures.
 */
export const COMBINE_MODES = ['concat', 'add', 'subtract', 'average', 'norm average', 'max', 'min'] as const;
export type CombineMode = (typeof COMBINE_MODES)[number];

type Reduce = (values: Float64Array) => number;

const sum: Reduce = (values) => values.reduce((total, value) => total + value, 0);
const mean: Reduce = (values) => sum(values) / values.length;

const REDUCE: Readonly<Record<Exclude<CombineMode, 'concat'>, Reduce>> = {
  add: sum,
  average: mean,
  subtract: (values) => (values[0] ?? 0) - mean(values.subarray(1)),
  'norm average': (values) => {
    const norm = Math.sqrt(values.reduce((total, value) => total + value * value, 0));
    // Where every picture has zero, so has the result; the reference's is no number there.
    return norm === 0 ? 0 : sum(values) / norm / values.length;
  },
  max: (values) => values.reduce((high, value) => Math.max(high, value), -Infinity),
  min: (values) => values.reduce((low, value) => Math.min(low, value), Infinity),
};

/** Combines the rows of `[n, …]`; a single row stays as it is in every mode. */
export function combineRows(tensor: F32Tensor, mode: CombineMode): F32Tensor {
  const [rows = 0, ...rest] = tensor.shape;
  if (mode === 'concat' || rows < 2) return tensor;
  const reduce = REDUCE[mode];
  const length = elementCount(rest);
  const out = new Float32Array(length);
  const values = new Float64Array(rows);
  for (let i = 0; i < length; i += 1) {
    for (let row = 0; row < rows; row += 1) values[row] = tensor.data[row * length + i] ?? 0;
    out[i] = reduce(values);
  }
  return f32Tensor([1, ...rest], out);
}

/** @throws {InvalidRequestError} for a weight that is no number */
export function requireWeights(weights: readonly number[]): void {
  const wrong = weights.find((weight) => !Number.isFinite(weight));
  if (wrong !== undefined) throw new InvalidRequestError(`A weight is a finite number, got ${JSON.stringify(wrong)}.`);
}

/** Each row times its weight; a list that is too short repeats its last. */
export function weighRows(tensor: F32Tensor, weights: readonly number[]): F32Tensor {
  requireWeights(weights);
  if (weights.length === 0 || weights.every((weight) => weight === 1)) return tensor;
  const [rows = 0, ...rest] = tensor.shape;
  const length = elementCount(rest);
  const out = new Float32Array(tensor.data.length);
  for (let row = 0; row < rows; row += 1) {
    const weight = weights[row] ?? weights.at(-1) ?? 1;
    for (let i = row * length; i < (row + 1) * length; i += 1) out[i] = weight * (tensor.data[i] ?? 0);
  }
  return f32Tensor(tensor.shape, out);
}

/** As many rows as wanted: cut, or the last one repeated. */
export function fitRows(tensor: F32Tensor, rows: number): F32Tensor {
  const [have = 0, ...rest] = tensor.shape;
  if (have === rows) return tensor;
  const length = elementCount(rest);
  const out = new Float32Array(rows * length);
  for (let row = 0; row < rows; row += 1) {
    const from = Math.min(row, have - 1) * length;
    out.set(tensor.data.subarray(from, from + length), row * length);
  }
  return f32Tensor([rows, ...rest], out);
}

/** Tensors below one another. @throws {InvalidRequestError} when they differ in more than rows. */
export function stackRows(tensors: readonly F32Tensor[], what: string): F32Tensor {
  const [first] = tensors;
  if (first === undefined) throw new InvalidRequestError(`There are no ${what} to combine.`);
  requireAlike(tensors, what);
  return joinBatch(tensors);
}

/** @throws {InvalidRequestError} when tensors differ in more than rows */
export function requireAlike([first, ...others]: readonly F32Tensor[], what: string): void {
  const inner = first?.shape.slice(1).join();
  const odd = others.find(({ shape }) => shape.slice(1).join() !== inner);
  if (first === undefined || odd === undefined) return;
  throw new InvalidRequestError(
    `The ${what} do not go together: [${first.shape.join(', ')}] and [${odd.shape.join(', ')}] come from different encoders or adapters.`,
  );
}
