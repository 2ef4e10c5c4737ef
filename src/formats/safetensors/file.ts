/** safetensors files on disk: the header, and ranges of the data on demand. Links are followed, nothing is written. */
import { basename, dirname, join } from 'node:path';
import { throwIfAborted } from '../../common/abort.js';
import { ModelFormatError } from '../../common/errors.js';
import { DTYPE_SIZES, tensorFromBytes, type DType, type Tensor } from '../../tensor/tensor.js';
import { readRange, withFile } from '../file-access.js';
import { stampOf, type ModelHeader, type TensorInfo } from '../model-header.js';
import { headerLength, parseHeader } from './header.js';

/**
 * Reads and checks the header of a safetensors file; no tensor data is read.
 *
 * @throws {ModelNotFoundError} when there is no such file.
 * @throws {ModelFormatError} `MODEL_UNREADABLE` when it cannot be read, `SAFETENSORS_INVALID` when it is not sound.
 */
export async function readSafetensorsHeader(
  path: string,
  options: { signal?: AbortSignal } = {},
): Promise<ModelHeader> {
  const label = basename(path);
  return withFile(path, async (file, realPath) => {
    const stat = await file.stat();
    if (!stat.isFile()) {
      throw new ModelFormatError('MODEL_UNREADABLE', `${path} is not a regular file.`, { details: { path } });
    }
    throwIfAborted(options.signal);
    const first = await readRange(file, 0, Math.min(8, stat.size), label);
    const length = headerLength(first, stat.size, label);
    const json = await readRange(file, 8, length, label);
    const { tensors, metadata } = parseHeader(json, 8 + length, stat.size, label);
    const place = { path: realPath, folder: dirname(realPath), stamp: stampOf(stat) };
    return { ...place, container: 'safetensors', sizeBytes: stat.size, tensors, strided: new Map(), metadata };
  });
}

/**
 * Reads one tensor.
 *
 * @throws {ModelFormatError} `TENSOR_MISSING`; `TENSOR_INVALID` for a dtype without an in-memory form; `MODEL_UNREADABLE`.
 */
export async function readTensor(header: ModelHeader, name: string): Promise<Tensor> {
  const info = header.tensors.get(name);
  if (info === undefined) {
    throw new ModelFormatError('TENSOR_MISSING', `${basename(header.path)} has no tensor ${JSON.stringify(name)}.`, {
      details: { path: header.path, tensor: name },
    });
  }
  const dtype = knownDType(info);
  const path = info.file === undefined ? header.path : join(header.folder, info.file);
  return withFile(path, async (file) => {
    const bytes = await readRange(file, info.offset, info.sizeBytes, basename(path));
    return tensorFromBytes(dtype, info.shape, bytes);
  });
}

/** The dtype of a tensor, if Vision Bridge has a form for it in memory. @throws {ModelFormatError} `TENSOR_INVALID` */
export function knownDType(info: TensorInfo): DType {
  if (isDType(info.dtype)) return info.dtype;
  throw new ModelFormatError(
    'TENSOR_INVALID',
    `Tensor ${info.name} has the dtype ${info.dtype}, which cannot be computed with.`,
  );
}

function isDType(dtype: string): dtype is DType {
  return Object.hasOwn(DTYPE_SIZES, dtype);
}
