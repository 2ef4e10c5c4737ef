/**
 * What goes into a projection, row by row: what each row is called, and which of them have to be computed.
 *
 * Rows are handed on as they lie in memory wherever that can be: hidden states of a picture have more than a megabyte, and
 * touching so much memory for the first time takes longer than all else that is done with it here.
 */
import { elementCount, f32Tensor, viewRows, type F32Tensor } from '../tensor/tensor.js';
import { batchOf } from '../vision/index.js';
import { unreadRows, type AdapterFeatures } from './feature-rows.js';
import type { ProjectInputs } from './operation.js';
import { hashRows, type TokenShelf } from './token-cache.js';

/** Rows of some features at most. */
export const MAX_ROWS = 4096;

/** Rows of features, and what is known of them. */
export interface NamedRows {
  /** Name the content of every row: equal hashes, equal tokens. */
  readonly hashes: readonly string[];
  /** Empty where the tokens of all rows are kept. */
  readonly inputs: ProjectInputs;
  /** Tokens that are kept, by hash. */
  readonly kept: ReadonlyMap<string, F32Tensor>;
}

/** Tokens of features that nobody has read, by their names alone; undefined where one of them is not kept. */
export function recallNamed(features: AdapterFeatures, shelf: TokenShelf | undefined): NamedRows | undefined {
  const { names } = unreadRows(features) ?? {};
  if (names === undefined || shelf === undefined || names.length > MAX_ROWS) return undefined;
  const hashes: string[] = [];
  const kept = new Map<string, F32Tensor>();
  for (const name of names) {
    const hash = shelf.contentOf(name);
    const tokens = hash === undefined ? undefined : (kept.get(hash) ?? shelf.get(hash));
    if (hash === undefined || tokens === undefined) return undefined;
    hashes.push(hash);
    kept.set(hash, tokens);
  }
  return { hashes, inputs: {}, kept };
}

/**
 * Features themselves, and the tokens of those rows that are kept.
 *
 * @param inputsOf What an adapter takes of them; throws where it takes them not.
 */
export async function readRows(
  features: AdapterFeatures,
  inputsOf: (features: AdapterFeatures) => ProjectInputs,
  shelf: TokenShelf | undefined,
  signal: AbortSignal | undefined,
): Promise<NamedRows> {
  const loaded = await unreadRows(features)?.load(signal);
  const inputs = inputsOf(loaded === undefined ? features : { image: loaded.features });
  const hashes = await hashRows(inputs, Object.values(inputs)[0]?.shape[0] ?? 0);
  loaded?.names?.forEach((name, row) => {
    shelf?.nameContent(name, hashes[row] ?? '');
  });
  const kept = new Map<string, F32Tensor>();
  for (const hash of new Set(hashes)) {
    const tokens = shelf?.get(hash);
    if (tokens !== undefined) kept.set(hash, tokens);
  }
  return { hashes, inputs, kept };
}

/** Each row that is not kept, once, as a batch of every part that has such rows. */
export function missingRows(parts: readonly NamedRows[]): {
  readonly hashes: readonly string[];
  readonly batches: readonly ProjectInputs[];
} {
  const seen = new Set<string>();
  const batches = parts.flatMap(({ hashes, inputs, kept }) => {
    const places = [...hashes.keys()].filter((row) => {
      const hash = hashes[row] ?? '';
      const isMissing = !kept.has(hash) && !seen.has(hash);
      if (isMissing) seen.add(hash);
      return isMissing;
    });
    if (places.length === 0) return [];
    return [Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, gatherRows(tensor, places)]))];
  });
  return { hashes: [...seen], batches };
}

/** Rows at these places; where they follow one another in memory, a view of them. */
export function gatherRows(tensor: F32Tensor, places: readonly number[]): F32Tensor {
  const { shape } = tensor;
  if (places.length === 0) return f32Tensor([0, ...shape.slice(1)], new Float32Array(0));
  return batchOf(places.map((place) => viewRows(tensor, place)));
}

/** Rows at these places, copied. */
export function copyRows(tensor: F32Tensor, places: readonly number[]): F32Tensor {
  const rest = tensor.shape.slice(1);
  const length = elementCount(rest);
  const data = new Float32Array(places.length * length);
  places.forEach((place, i) => {
    data.set(viewRows(tensor, place).data, i * length);
  });
  return f32Tensor([places.length, ...rest], data);
}

/** One row, without the batch. */
export function rowAt(tensor: F32Tensor, row: number): F32Tensor {
  return f32Tensor(tensor.shape.slice(1), viewRows(tensor, row).data);
}

/** Rows of one shape, without the batch, below one another. */
export function stack(rows: readonly F32Tensor[]): F32Tensor {
  return batchOf(rows.map(({ shape, data }) => f32Tensor([1, ...shape], data)));
}
