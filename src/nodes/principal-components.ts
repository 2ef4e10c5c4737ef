/**
 * Principal components of many vectors: the few directions in which they differ most.
 *
 * Subspace iteration with a few directions to spare, then the small eigenproblem inside the subspace: the covariance
 * matrix, which is large, is never made. Deterministic: the same vectors give the same components and signs.
 */
import { throwIfAborted } from '../common/abort.js';
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';

/** Directions beyond those asked for; they make the iteration converge fast. */
const SPARE = 5;
const MAX_ROUNDS = 60;
/** Change of the captured variance at which the iteration has converged, relative. */
const TOLERANCE = 1e-9;
/** Vectors that the directions are found from; of more, an even selection. All are projected. */
const MAX_FITTED = 4096;
/** Vectors between two looks at the signal and at other work of this thread. */
const CHUNK = 512;

/**
 * Projects vectors onto their principal components.
 *
 * @param vectors f32 `[N, D]`
 * @returns f32 `[N, count]`; components in falling order of variance, each with its largest loading positive. Where the
 *   vectors have fewer directions than asked for, the rest is zeros.
 */
export async function projectOnComponents(vectors: F32Tensor, count: number, signal?: AbortSignal): Promise<F32Tensor> {
  const [rows = 0, width = 0] = vectors.shape;
  const mean = meanOf(vectors);
  const fitted = centred(vectors, mean, Math.max(1, Math.ceil(rows / MAX_FITTED)));
  const rank = Math.min(count + SPARE, width);
  let basis = orthonormal(startBasis(width, rank), width);
  let captured = 0;
  for (let round = 0; round < MAX_ROUNDS; round += 1) {
    const { image, variance } = await applyCovariance(fitted, width, basis, signal);
    basis = orthonormal(image, width);
    if (Math.abs(variance - captured) <= TOLERANCE * variance) break;
    captured = variance;
  }
  const components = await rotateToComponents(fitted, width, basis, count, signal);
  const projected = new Float32Array(rows * count);
  for (let row = 0; row < rows; row += 1) {
    if (row % CHUNK === 0) await pause(signal);
    components.forEach((component, c) => {
      let sum = 0;
      for (let k = 0; k < width; k += 1)
        sum += ((vectors.data[row * width + k] ?? 0) - (mean[k] ?? 0)) * (component[k] ?? 0);
      projected[row * count + c] = sum;
    });
  }
  return f32Tensor([rows, count], projected);
}

function meanOf({ shape, data }: F32Tensor): Float64Array {
  const [rows = 0, width = 0] = shape;
  const mean = new Float64Array(width);
  for (let row = 0; row < rows; row += 1)
    for (let k = 0; k < width; k += 1) mean[k] = (mean[k] ?? 0) + (data[row * width + k] ?? 0) / rows;
  return mean;
}

/** Every `stride`-th vector, less the mean. */
function centred({ shape, data }: F32Tensor, mean: Float64Array, stride: number): Float64Array[] {
  const [rows = 0, width = 0] = shape;
  const selected: Float64Array[] = [];
  for (let row = 0; row < rows; row += stride)
    selected.push(Float64Array.from({ length: width }, (_none, k) => (data[row * width + k] ?? 0) - (mean[k] ?? 0)));
  return selected;
}

/** Directions without a pattern that real features could be at right angles to, from a fixed generator. */
function startBasis(width: number, rank: number): Float64Array[] {
  let state = 1;
  const next = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0; // the constants of Numerical Recipes
    return state / 2 ** 32 - 0.5;
  };
  return Array.from({ length: rank }, () => Float64Array.from({ length: width }, next));
}

/** Covariance times every direction, and the variance that the directions capture. */
async function applyCovariance(
  rows: readonly Float64Array[],
  width: number,
  basis: readonly Float64Array[],
  signal: AbortSignal | undefined,
): Promise<{ image: Float64Array[]; variance: number }> {
  const image = basis.map(() => new Float64Array(width));
  let variance = 0;
  for (const [index, row] of rows.entries()) {
    if (index % CHUNK === 0) await pause(signal);
    basis.forEach((direction, c) => {
      const weight = dot(row, direction);
      variance += weight ** 2;
      const target = image[c] ?? row;
      for (let k = 0; k < width; k += 1) target[k] = (target[k] ?? 0) + weight * (row[k] ?? 0);
    });
  }
  return { image, variance };
}

/** Gram-Schmidt, twice for its rounding; directions that vanish are dropped. */
function orthonormal(directions: readonly Float64Array[], width: number): Float64Array[] {
  const basis: Float64Array[] = [];
  for (const given of directions) {
    const direction = Float64Array.from(given);
    const before = Math.sqrt(dot(direction, direction));
    for (let pass = 0; pass < 2; pass += 1) {
      for (const known of basis) {
        const weight = dot(direction, known);
        for (let k = 0; k < width; k += 1) direction[k] = (direction[k] ?? 0) - weight * (known[k] ?? 0);
      }
    }
    const length = Math.sqrt(dot(direction, direction));
    if (length > 1e-10 * before) basis.push(direction.map((value) => value / length));
  }
  return basis;
}

async function rotateToComponents(
  rows: readonly Float64Array[],
  width: number,
  basis: readonly Float64Array[],
  count: number,
  signal: AbortSignal | undefined,
): Promise<Float64Array[]> {
  const { image } = await applyCovariance(rows, width, basis, signal);
  const small = basis.map((left) => image.map((right) => dot(left, right)));
  const { values, vectors } = symmetricEigen(small);
  const order = values.map((_value, i) => i).sort((a, b) => (values[b] ?? 0) - (values[a] ?? 0));
  return order.slice(0, count).map((column) => {
    const component = new Float64Array(width);
    basis.forEach((direction, i) => {
      const weight = vectors[i]?.[column] ?? 0;
      for (let k = 0; k < width; k += 1) component[k] = (component[k] ?? 0) + weight * (direction[k] ?? 0);
    });
    const largest = component.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best), 0);
    return largest < 0 ? component.map((value) => -value) : component;
  });
}

const MAX_SWEEPS = 50;

/** Eigenvalues and eigenvectors (columns) of a small symmetric matrix, by Jacobi rotations. */
function symmetricEigen(matrix: readonly (readonly number[])[]): { values: number[]; vectors: number[][] } {
  const size = matrix.length;
  const a = matrix.map((row) => [...row]);
  const v = a.map((_row, i) => a.map((_other, j) => (i === j ? 1 : 0)));
  const at = (m: number[][], i: number, j: number): number => m[i]?.[j] ?? 0;
  const put = (m: number[][], i: number, j: number, value: number): void => {
    const row = m[i];
    if (row !== undefined) row[j] = value;
  };
  const total = a.flat().reduce((sum, value) => sum + value ** 2, 0);
  for (let sweep = 0; sweep < MAX_SWEEPS; sweep += 1) {
    let off = 0;
    for (let p = 0; p < size; p += 1) {
      for (let q = p + 1; q < size; q += 1) {
        const apq = at(a, p, q);
        off += apq ** 2;
        if (apq === 0) continue;
        const theta = (at(a, q, q) - at(a, p, p)) / (2 * apq);
        const t = (theta >= 0 ? 1 : -1) / (Math.abs(theta) + Math.sqrt(theta ** 2 + 1));
        const c = 1 / Math.sqrt(t ** 2 + 1);
        const s = t * c;
        for (let k = 0; k < size; k += 1) {
          const [kp, kq] = [at(a, k, p), at(a, k, q)];
          put(a, k, p, c * kp - s * kq);
          put(a, k, q, s * kp + c * kq);
          const [vp, vq] = [at(v, k, p), at(v, k, q)];
          put(v, k, p, c * vp - s * vq);
          put(v, k, q, s * vp + c * vq);
        }
        for (let k = 0; k < size; k += 1) {
          const [pk, qk] = [at(a, p, k), at(a, q, k)];
          put(a, p, k, c * pk - s * qk);
          put(a, q, k, s * pk + c * qk);
        }
      }
    }
    if (off <= 1e-24 * total) break;
  }
  return { values: a.map((row, i) => row[i] ?? 0), vectors: v };
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let k = 0; k < a.length; k += 1) sum += (a[k] ?? 0) * (b[k] ?? 0);
  return sum;
}

/** Lets the server answer others. */
async function pause(signal: AbortSignal | undefined): Promise<void> {
  throwIfAborted(signal);
  await new Promise((resolve) => setImmediate(resolve));
}
