/** Outputs of several encodes as one batch, in their order. */
import { InvalidRequestError } from '../common/errors.js';
import { elementCount, f32Tensor, u8Tensor, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import type { VisionOutput } from './output.js';

/** @throws {InvalidRequestError} for none at all */
export function joinOutputs(parts: readonly VisionOutput[]): VisionOutput {
  const [first] = parts;
  if (first === undefined) throw new InvalidRequestError('There is nothing to join.');
  if (parts.length === 1) return first;
  const fields = Object.keys(first) as (keyof VisionOutput)[];
  return Object.fromEntries(fields.map((field) => [field, joinBatch(parts.flatMap((part) => part[field] ?? []))]));
}

/** Tensors of one shape but for the batch, along the batch. */
export function joinBatch(parts: readonly F32Tensor[]): F32Tensor {
  const [first] = parts;
  if (first !== undefined && parts.length === 1) return first;
  const data = new Float32Array(parts.reduce((sum, part) => sum + part.data.length, 0));
  let position = 0;
  for (const part of parts) {
    data.set(part.data, position);
    position += part.data.length;
  }
  return f32Tensor(joinedShape(parts), data);
}

/** As `joinBatch`; tensors that follow one another in memory are not copied. For who does not write into the batch. */
export function batchOf(parts: readonly F32Tensor[]): F32Tensor {
  const [first] = parts;
  let end = first?.data.byteOffset ?? 0;
  const isOneAfterAnother = parts.every(({ data: { buffer, byteOffset, byteLength } }) => {
    const isNext = buffer === first?.data.buffer && byteOffset === end;
    end += byteLength;
    return isNext;
  });
  if (first === undefined || !isOneAfterAnother) return joinBatch(parts);
  const { buffer, byteOffset, BYTES_PER_ELEMENT } = first.data;
  return f32Tensor(joinedShape(parts), new Float32Array(buffer, byteOffset, (end - byteOffset) / BYTES_PER_ELEMENT));
}

function joinedShape(parts: readonly F32Tensor[]): number[] {
  const batch = parts.reduce((sum, { shape: [rows = 0] }) => sum + rows, 0);
  return [batch, ...(parts[0]?.shape.slice(1) ?? [])];
}

/** Pictures of one size and dtype as one batch. */
export function joinPictures(list: readonly (F32Tensor | U8Tensor)[]): F32Tensor | U8Tensor {
  const [first] = list;
  if (first === undefined) throw new InvalidRequestError('There are no pictures.');
  if (list.length === 1) return first;
  const rest = first.shape.slice(1);
  const shape = [list.reduce((sum, { shape: [rows = 0] }) => sum + rows, 0), ...rest];
  const length = elementCount(shape);
  const data = first.dtype === 'U8' ? new Uint8Array(length) : new Float32Array(length);
  let position = 0;
  for (const picture of list) {
    data.set(picture.data, position);
    position += picture.data.length;
  }
  return data instanceof Uint8Array ? u8Tensor(shape, data) : f32Tensor(shape, data);
}
