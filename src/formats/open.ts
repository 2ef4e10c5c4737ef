/** Any model file: the container is told by content, and a model in several files is opened as a whole. */
import { basename } from 'node:path';
import { throwIfAborted } from '../common/abort.js';
import { ModelFormatError } from '../common/errors.js';
import { containerOf, FIRST_BYTES } from './content.js';
import { readRange, withFile } from './file-access.js';
import type { ModelHeader } from './model-header.js';
import { readSafetensorsHeader } from './safetensors/file.js';
import { findIndex, readShards } from './shards.js';
import { readTorchHeader } from './torch/file.js';

export interface OpenOptions {
  readonly signal?: AbortSignal;
  /** Name for the tensor of a PyTorch file that holds one and no table; such files are refused without. */
  readonly soleTensor?: string;
}

/**
 * Reads the header of a model; no tensor data is read.
 *
 * @param path A safetensors or PyTorch file; the index of a model in several files, or one of the files that its index
 *   names, which opens the whole.
 * @throws {ModelNotFoundError} when there is no such file.
 * @throws {ModelFormatError} `MODEL_UNREADABLE`; `MODEL_FORMAT_UNSUPPORTED`, saying what the file is instead;
 *   `SAFETENSORS_INVALID`, `TORCH_INVALID`, `PICKLE_REFUSED`, `SHARDS_INVALID`.
 */
export async function readModelHeader(path: string, options: OpenOptions = {}): Promise<ModelHeader> {
  const index = await findIndex(path);
  return index === undefined ? readAny(path, options, 'whole') : readAny(index, options, 'whole');
}

/** Reads the header of one file, also where it is a part of a model in several. Throws as `readModelHeader` does. */
export async function readFileHeader(path: string, options: OpenOptions = {}): Promise<ModelHeader> {
  return readAny(path, options, 'part');
}

async function readAny(path: string, options: OpenOptions, what: 'whole' | 'part'): Promise<ModelHeader> {
  const label = basename(path);
  const container = await withFile(path, async (file) => {
    const { size } = await file.stat();
    return containerOf(await readRange(file, 0, Math.min(FIRST_BYTES, size), label), label);
  });
  throwIfAborted(options.signal);
  if (container === 'safetensors') return readSafetensorsHeader(path, options);
  if (container === 'torch') return readTorchHeader(path, options);
  if (what === 'whole' && path.endsWith('.json')) return readShards(path, (part) => readAny(part, options, 'part'));
  throw new ModelFormatError('MODEL_FORMAT_UNSUPPORTED', `${label} is not a model that is read: it is JSON.`, {
    details: { file: label },
  });
}
