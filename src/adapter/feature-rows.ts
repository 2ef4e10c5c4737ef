/**
 * Features that nobody has looked at yet: they have names, and are read when somebody looks.
 *
 * Tokens that are kept under names need no features, and reading these takes longer than all the rest. As soon as somebody
 * has the values in hand they may be changed, so names count only until then; after that, content decides.
 */
import { createHash } from 'node:crypto';
import { InvalidRequestError } from '../common/errors.js';
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import { batchOf, type NamedFeatures, type NamedPictures } from '../vision/index.js';
import { combineRows, fitRows, weighRows, type CombineMode } from './combine.js';

/** What goes into a projection; which of them an adapter takes, its `encoder` and `face` say. All f32. */
export interface AdapterFeatures {
  /** `[B, E]` image embeds, or `[B, N, D]` penultimate hidden states. */
  readonly image?: F32Tensor;
  /** `[B, 1, F]` embeddings of faces. */
  readonly face?: F32Tensor;
}

/** Rows of features, one for each picture, by name. */
export interface FeatureRows {
  /** Of each row: equal names, equal values, in every process. */
  readonly names: readonly string[];
  /** Whether `read` would succeed now. */
  isReadable(): boolean;
  /** Reads them into memory of the caller's own. @throws {InvalidRequestError} where they are not kept, or no longer */
  read(): F32Tensor;
  /** Reads them, or makes them where they are not kept. Nobody writes into what it gives. */
  load(signal?: AbortSignal): Promise<NamedFeatures>;
}

/**
 * Features of pictures, in the store or not.
 *
 * @param make Makes them where the store has them not.
 */
export function pictureRows(
  pictures: NamedPictures,
  names: readonly string[],
  make: (signal: AbortSignal | undefined) => Promise<NamedFeatures>,
): FeatureRows {
  return {
    names,
    isReadable: () => pictures.isKept(),
    read() {
      const features = pictures.recall();
      if (features !== undefined) return features;
      throw new InvalidRequestError(
        'The features of these references have left the feature store since the references were blended. Blend them again and look at the features at once, or let the store hold more (--feature-store-size).',
      );
    },
    async load(signal) {
      const features = pictures.recall();
      return features === undefined ? make(signal) : { features, names };
    },
  };
}

/** Features in memory, that nobody else has. */
function madeRows(features: F32Tensor, names: readonly string[]): FeatureRows {
  return {
    names,
    isReadable: () => true,
    // Other rows may be made of these, and go by their names.
    read: () => copyOf(features),
    load: () => Promise.resolve({ features, names }),
  };
}

/** Image embeds of one row that are all zero. */
export function zeroEmbeds(width: number): FeatureRows {
  const read = (): F32Tensor => f32Tensor([1, width], new Float32Array(width));
  const names = [`zeros ${width}`];
  return { names, isReadable: () => true, read, load: () => Promise.resolve({ features: read(), names }) };
}

export function copyOf({ shape, data }: F32Tensor): F32Tensor {
  return f32Tensor(shape, data.slice());
}

/** Rows of several as those of one, in their order. */
export function stackNamed(parts: readonly FeatureRows[]): FeatureRows {
  const names = parts.flatMap((part) => part.names);
  return derived(parts, names, batchOf);
}

/** As many rows as wanted: cut, or the last one repeated. */
export function fitNamed(part: FeatureRows, count: number): FeatureRows {
  const { names } = part;
  if (names.length === count) return part;
  const fitted = Array.from({ length: count }, (_none, row) => names[Math.min(row, names.length - 1)] ?? '');
  return derived([part], fitted, (tensors) => fitRows(batchOf(tensors), count));
}

/** Rows times their weights, then combined. */
export function blendNamed(parts: readonly FeatureRows[], weights: readonly number[], mode: CombineMode): FeatureRows {
  const weighed = parts
    .flatMap(({ names }) => names)
    .map((name, row) => {
      const weight = weights[row] ?? weights.at(-1) ?? 1;
      return weight === 1 ? name : hashOf(['weight', weight, name]);
    });
  const names = mode === 'concat' || weighed.length < 2 ? weighed : [hashOf(['combine', mode, ...weighed])];
  return derived(parts, names, (tensors) => combineRows(weighRows(batchOf(tensors), weights), mode));
}

function derived(
  parts: readonly FeatureRows[],
  names: readonly string[],
  make: (tensors: readonly F32Tensor[]) => F32Tensor,
): FeatureRows {
  return {
    names,
    isReadable: () => parts.every((part) => part.isReadable()),
    read: () => make(parts.map((part) => part.read())),
    async load(signal) {
      const loaded = await Promise.all(parts.map((part) => part.load(signal)));
      const isAsNamed = loaded.every((part) => part.names !== undefined);
      return { features: make(loaded.map(({ features }) => features)), names: isAsNamed ? names : undefined };
    },
  };
}

function hashOf(parts: readonly (string | number)[]): string {
  return createHash('sha256').update(parts.join('\n')).digest('hex');
}

/** Features by the object that stands for them, until somebody looks at it. */
const unread = new WeakMap<AdapterFeatures, FeatureRows>();

/** Features whose `image` is read when it is looked at. */
export function unreadFeatures(rows: FeatureRows): AdapterFeatures {
  let image: F32Tensor | undefined;
  const features: AdapterFeatures = {
    get image() {
      image ??= (unread.get(features) ?? rows).read();
      unread.delete(features);
      return image;
    },
  };
  unread.set(features, rows);
  return features;
}

/** The rows of features that nobody has looked at. */
export function unreadRows(features: AdapterFeatures): FeatureRows | undefined {
  return unread.get(features);
}

/** Sees to it that features can be looked at: those that are not kept are made. They keep their names. */
export async function makeFeatures(features: AdapterFeatures, signal?: AbortSignal): Promise<void> {
  if (unread.get(features)?.isReadable() === false) await holdFeatures(features, signal);
}

/** Reads features that may be looked at later, so that they cannot leave the store before. They keep their names. */
export async function holdFeatures(features: AdapterFeatures, signal?: AbortSignal): Promise<void> {
  const rows = unread.get(features);
  if (rows === undefined) return;
  const { features: values, names } = await rows.load(signal);
  // Somebody may have looked meanwhile.
  if (!unread.has(features)) return;
  unread.set(features, madeRows(values, names ?? rows.names));
  // They are others than were named, and lose their names by being looked at.
  if (names === undefined) Reflect.get(features, 'image');
}

/** The values of features, for a caller who owns them. */
export async function readFeatures(features: AdapterFeatures, signal?: AbortSignal): Promise<AdapterFeatures> {
  const rows = unread.get(features);
  return rows === undefined ? features : { image: (await rows.load(signal)).features };
}
