/** Image files that were seen before: which pictures they hold, as an encoder sees them, without decoding them. */
import { sha256Of } from '../common/sha256.js';
import type { VisionModel } from './model.js';
import type { EncodeOptions } from './options.js';
import type { Run } from './run.js';

/** An image file, as far as the store has seen it before. */
export interface KnownFile {
  /** Names of its pictures. */
  readonly known: readonly string[] | undefined;
  /** Keeps the names of its pictures; absent where nothing is kept. */
  readonly keep: ((hashes: readonly string[]) => Promise<void>) | undefined;
}

/** What the store knows of the bytes of an image file as this model sees it, and where to keep what is found out. */
export async function recallFile(
  { modelType, config }: VisionModel,
  bytes: Uint8Array,
  { cached }: Run,
  { crop = 'center' }: Pick<EncodeOptions, 'crop'>,
): Promise<KnownFile> {
  if (cached === undefined) return { known: undefined, keep: undefined };
  const { imageSize, patchSize, maxPatches } = config;
  const preprocessing = JSON.stringify([modelType, imageSize, patchSize, maxPatches, crop]);
  const file = await sha256Of(bytes);
  return {
    known: cached.cache.getPictures(file, preprocessing),
    keep: (hashes) => cached.cache.putPictures(file, preprocessing, hashes),
  };
}
