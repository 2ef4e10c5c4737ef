/** Files of models: opened through links, read range by range, never written. */
import { realpath, type FileHandle } from 'node:fs/promises';
import { BridgeError, ModelFormatError, ModelNotFoundError, messageOf, systemCodeOf } from '../common/errors.js';
import { openRegularFile } from '../common/regular-file.js';

/**
 * Works with an open file, which is closed afterwards.
 *
 * @throws {ModelNotFoundError} when there is no such file; {ModelFormatError} `MODEL_UNREADABLE` when it cannot be read.
 */
export async function withFile<T>(path: string, work: (file: FileHandle, realPath: string) => Promise<T>): Promise<T> {
  try {
    const realPath = await realpath(path);
    const file = await openRegularFile(realPath);
    try {
      return await work(file, realPath);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    const code = systemCodeOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new ModelNotFoundError(`There is no model file ${path}.`, { cause: error, details: { path } });
    }
    throw new ModelFormatError('MODEL_UNREADABLE', `${path} cannot be read: ${messageOf(error)}.`, {
      cause: error,
      details: { path },
    });
  }
}

/** Exactly these bytes; the caller has checked that the file is long enough. @throws {ModelFormatError} `MODEL_UNREADABLE` */
export async function readRange(
  file: FileHandle,
  position: number,
  length: number,
  label: string,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await file.read(bytes, done, length - done, position + done);
    if (bytesRead === 0) {
      throw new ModelFormatError('MODEL_UNREADABLE', `${label} became shorter while it was read.`, {
        details: { file: label },
      });
    }
    done += bytesRead;
  }
  return bytes;
}
