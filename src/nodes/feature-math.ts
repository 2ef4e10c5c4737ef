/** What nodes compute from features: one vector per image, cosines, patches. */
import { InvalidRequestError } from '../common/errors.js';
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import type { VisionOutput } from '../vision/index.js';

/** Which vector stands for an image. */
export const VECTOR_KINDS = ['image embeds', 'mean of patches'] as const;
export type VectorKind = (typeof VECTOR_KINDS)[number];

/**
 * One vector per image, `[B, D]`.
 *
 * `image embeds` are the encoder's own; where a family has a sequence in their place (SigLIP), its mean. `mean of
 * patches` is the mean over the patches of the last hidden state.
 */
export function imageVectors(features: VisionOutput, kind: VectorKind, label: string): F32Tensor {
  if (kind === 'mean of patches') return meanOfTokens(patchesOf(features, 'last_hidden_state', 0, label).patches);
  const { imageEmbeds } = features;
  if (imageEmbeds === undefined) throw new InvalidRequestError(`${label} has no image embeds.`);
  return imageEmbeds.shape.length === 3 ? meanOfTokens(imageEmbeds) : imageEmbeds;
}

/**
 * Cosine of every vector of `a` with every one of `b`, `[A, B]` by rows. A vector of zeros has a cosine of 0 with all.
 *
 * @throws {InvalidRequestError} when the widths differ: the features come from different encoders.
 */
export function cosineMatrix(a: F32Tensor, b: F32Tensor): F32Tensor {
  const [rows = 0, width = 0] = a.shape;
  const [columns = 0, otherWidth = 0] = b.shape;
  if (width !== otherWidth) {
    throw new InvalidRequestError(
      `The features are ${width} and ${otherWidth} wide: they come from different encoders and cannot be compared.`,
    );
  }
  const left = unitRows(a);
  const right = unitRows(b);
  const cosines = new Float32Array(rows * columns);
  for (let i = 0; i < rows; i += 1) {
    for (let j = 0; j < columns; j += 1) {
      let sum = 0;
      for (let k = 0; k < width; k += 1) sum += (left[i * width + k] ?? 0) * (right[j * width + k] ?? 0);
      cosines[i * columns + j] = sum;
    }
  }
  return f32Tensor([rows, columns], cosines);
}

/** Rows of a matrix, each divided by its length, in double precision. */
function unitRows({ shape, data }: F32Tensor): Float64Array {
  const [rows = 0, width = 0] = shape;
  const unit = new Float64Array(data.length);
  for (let row = 0; row < rows; row += 1) {
    let square = 0;
    for (let k = 0; k < width; k += 1) square += (data[row * width + k] ?? 0) ** 2;
    const scale = square > 0 ? 1 / Math.sqrt(square) : 0;
    for (let k = 0; k < width; k += 1) unit[row * width + k] = (data[row * width + k] ?? 0) * scale;
  }
  return unit;
}

/** How the cosines of all pairs become one number. */
export const SCORE_KINDS = ['mean', 'lowest', 'highest', 'mean of best'] as const;
export type ScoreKind = (typeof SCORE_KINDS)[number];

/** `mean of best` takes for every image of `a` its best partner in `b`. */
export function scoreOf({ shape, data }: F32Tensor, kind: ScoreKind): number {
  const [rows = 0, columns = 0] = shape;
  const values = Array.from(data);
  const mean = (list: readonly number[]): number => list.reduce((sum, value) => sum + value, 0) / list.length;
  const highest = (list: readonly number[]): number => list.reduce((best, value) => Math.max(best, value), -Infinity);
  switch (kind) {
    case 'mean':
      return mean(values);
    case 'lowest':
      return values.reduce((worst, value) => Math.min(worst, value), Infinity);
    case 'highest':
      return highest(values);
    case 'mean of best':
      return mean(
        Array.from({ length: rows }, (_none, row) => highest(values.slice(row * columns, (row + 1) * columns))),
      );
  }
}

export const STATE_KINDS = ['last_hidden_state', 'penultimate_hidden_states'] as const;
export type StateKind = (typeof STATE_KINDS)[number];

export interface Patches {
  /** `[B, rows * columns, D]`, without class token and registers. */
  readonly patches: F32Tensor;
  readonly rows: number;
  readonly columns: number;
}

/** Tokens that may stand before the patches: none (SigLIP), a class token, class token and four registers (DINOv3). */
const PREFIXES = [0, 1, 5];

/**
 * The patches of a hidden state, in their grid.
 *
 * Features do not say how many tokens stand before the patches; square grids tell. For pictures in another ratio (SigLIP2
 * NaFlex) the number of rows must be given.
 *
 * @param rows 0 for a square grid.
 */
export function patchesOf(features: VisionOutput, state: StateKind, rows: number, label: string): Patches {
  const hidden = state === 'last_hidden_state' ? features.lastHiddenState : features.penultimateHiddenStates;
  if (hidden === undefined) throw new InvalidRequestError(`${label} has no ${state}.`);
  const [batch = 0, tokens = 0, width = 0] = hidden.shape;
  const fits = (prefix: number): boolean => {
    const count = tokens - prefix;
    return count > 0 && (rows > 0 ? count % rows === 0 : Number.isInteger(Math.sqrt(count)));
  };
  const prefix = PREFIXES.find(fits);
  if (prefix === undefined) {
    throw new InvalidRequestError(
      rows > 0
        ? `${label}: ${tokens} tokens do not make ${rows} rows of patches.`
        : `${label}: ${tokens} tokens make no square grid of patches; give the number of rows.`,
    );
  }
  const count = tokens - prefix;
  const data = new Float32Array(batch * count * width);
  for (let image = 0; image < batch; image += 1) {
    const begin = (image * tokens + prefix) * width;
    data.set(hidden.data.subarray(begin, begin + count * width), image * count * width);
  }
  const gridRows = rows > 0 ? rows : Math.sqrt(count);
  return { patches: f32Tensor([batch, count, width], data), rows: gridRows, columns: count / gridRows };
}

function meanOfTokens({ shape, data }: F32Tensor): F32Tensor {
  const [batch = 0, tokens = 0, width = 0] = shape;
  const means = new Float32Array(batch * width);
  for (let image = 0; image < batch; image += 1) {
    for (let k = 0; k < width; k += 1) {
      let sum = 0;
      for (let token = 0; token < tokens; token += 1) sum += data[(image * tokens + token) * width + k] ?? 0;
      means[image * width + k] = sum / tokens;
    }
  }
  return f32Tensor([batch, width], means);
}
