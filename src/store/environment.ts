/**
 * The LMDB environment that all stores share.
 *
 * LMDB because several processes may have it open at once and a crash cannot corrupt it. Everything in it can be made
 * again: an environment that does not open is moved aside, with one warning, and a new one begun.
 */
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { RootDatabase } from 'lmdb';
import { messageOf } from '../common/errors.js';
import type { Logger } from '../common/logger.js';

/** Raised when a stored form changes; older files are left alone and unused. */
const LAYOUT_VERSION = 1;
// Address space, not disk: LMDB grows its file as it fills. Features are bounded by the feature store itself.
const MAP_SIZE_BYTES = 64 * 2 ** 30;
const MAX_DATABASES = 16;

/** Opens, or begins, the environment in a folder of ours. */
export async function openEnvironment(directory: string, logger: Logger): Promise<RootDatabase> {
  const { open } = await import('lmdb');
  const path = join(directory, `store-v${LAYOUT_VERSION}`);
  await mkdir(directory, { recursive: true });
  const options = { path, mapSize: MAP_SIZE_BYTES, maxDbs: MAX_DATABASES, compression: false };
  try {
    return open(options);
  } catch (error) {
    const aside = `${path}.broken-${Date.now()}`;
    await rename(path, aside);
    logger.warn({ path, aside, reason: messageOf(error) }, 'the store did not open; it was moved aside and begun anew');
    return open(options);
  }
}
