/** Arithmetic on what goes into a projection, over pictures and faces alike; features that nobody looked at stay unread. */
import { InvalidRequestError } from '../common/errors.js';
import type { F32Tensor } from '../tensor/tensor.js';
import { combineRows, fitRows, requireWeights, stackRows, weighRows, type CombineMode } from './combine.js';
import {
  blendNamed,
  fitNamed,
  stackNamed,
  unreadFeatures,
  unreadRows,
  type AdapterFeatures,
  type FeatureRows,
} from './feature-rows.js';

/** Applies a change to every tensor of some features. */
export function mapFeatures(features: AdapterFeatures, change: (tensor: F32Tensor) => F32Tensor): AdapterFeatures {
  return {
    ...(features.image === undefined ? {} : { image: change(features.image) }),
    ...(features.face === undefined ? {} : { face: change(features.face) }),
  };
}

/** Pictures of some features. */
export function rowCount(features: AdapterFeatures): number {
  return unreadRows(features)?.names.length ?? (features.image ?? features.face)?.shape[0] ?? 0;
}

/** All rows times their weights (a list that is too short repeats its last), then combined. @throws {InvalidRequestError} */
export function blendFeatures(
  parts: readonly AdapterFeatures[],
  weights: readonly number[],
  mode: CombineMode,
): AdapterFeatures {
  requireWeights(weights);
  const rows = unreadParts(parts);
  if (rows !== undefined) return unreadFeatures(blendNamed(rows, weights, mode));
  return mapFeatures(stackFeatures(parts), (tensor) => combineRows(weighRows(tensor, weights), mode));
}

/** As many rows as wanted: cut, or the last one repeated. */
export function fitFeatures(features: AdapterFeatures, count: number): AdapterFeatures {
  const rows = unreadRows(features);
  if (rows !== undefined) return unreadFeatures(fitNamed(rows, count));
  return mapFeatures(features, (tensor) => fitRows(tensor, count));
}

/** Rows of several below one another. @throws {InvalidRequestError} where they belong to different adapters or encoders. */
export function stackFeatures(list: readonly AdapterFeatures[]): AdapterFeatures {
  const rows = unreadParts(list);
  if (rows !== undefined) return unreadFeatures(stackNamed(rows));
  const images = list.flatMap(({ image }) => image ?? []);
  const faces = list.flatMap(({ face }) => face ?? []);
  for (const [tensors, what] of [
    [images, 'pictures'],
    [faces, 'faces'],
  ] as const) {
    if (tensors.length !== 0 && tensors.length !== list.length)
      throw new InvalidRequestError(`Only some of the embeds have ${what}: they belong to different adapters.`);
  }
  return {
    ...(images.length === 0 ? {} : { image: stackRows(images, 'embeds') }),
    ...(faces.length === 0 ? {} : { face: stackRows(faces, 'face embeds') }),
  };
}

/** The rows of all of them, if nobody has looked at any. */
function unreadParts(parts: readonly AdapterFeatures[]): FeatureRows[] | undefined {
  const rows = parts.map((part) => unreadRows(part)).filter((part) => part !== undefined);
  return rows.length === 0 || rows.length < parts.length ? undefined : rows;
}
