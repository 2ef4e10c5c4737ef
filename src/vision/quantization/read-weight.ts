/** Weights of a model's file as f32, one at a time. */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { ModelFormatError } from '../../common/errors.js';
import { f8ToF32Array } from '../../tensor/float8.js';
import { bf16ToF32Array, f16ToF32Array } from '../../tensor/float16.js';
import { DTYPE_SIZES, tensorFromBytes, type DType, type Tensor } from '../../tensor/tensor.js';
import type { ResolvedModel } from '../model.js';

/** A weight as it is stored. @throws {ModelFormatError} `TENSOR_MISSING`, `MODEL_UNREADABLE` */
export async function readStored({ model, weights }: ResolvedModel, name: string): Promise<Tensor> {
  const range = weights.ranges.get(name);
  if (range === undefined || !isDType(range.dtype)) {
    throw new ModelFormatError('TENSOR_MISSING', `${model.path} has no usable tensor ${name}.`, {
      details: { path: model.path, tensor: name },
    });
  }
  const path = range.file === undefined ? model.path : join(model.folder, range.file);
  const file = await open(path, 'r');
  try {
    const bytes = new Uint8Array(range.sizeBytes);
    for (let done = 0; done < bytes.length;) {
      const { bytesRead } = await file.read(bytes, done, bytes.length - done, range.offset + done);
      if (bytesRead === 0) throw new ModelFormatError('MODEL_UNREADABLE', `${path} became shorter while it was read.`);
      done += bytesRead;
    }
    return tensorFromBytes(range.dtype, range.shape, bytes);
  } finally {
    await file.close();
  }
}

/** A weight as f32; exact for every dtype that is read. @throws {ModelFormatError} */
export async function readF32(resolved: ResolvedModel, name: string): Promise<Float32Array> {
  const tensor = await readStored(resolved, name);
  if (tensor.dtype === 'F32') return tensor.data;
  if (tensor.dtype === 'F16') return f16ToF32Array(tensor.data);
  if (tensor.dtype === 'BF16') return bf16ToF32Array(tensor.data);
  if (tensor.dtype === 'F8_E4M3' || tensor.dtype === 'F8_E5M2') return f8ToF32Array(tensor.dtype, tensor.data);
  throw new ModelFormatError('TENSOR_INVALID', `${name} is stored as ${tensor.dtype}, which int8 is not made from.`);
}

function isDType(dtype: string): dtype is DType {
  return Object.hasOwn(DTYPE_SIZES, dtype);
}
