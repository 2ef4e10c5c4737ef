/**
 * Dense row-major tensors in memory, with safetensors' dtype names.
 *
 * Half floats are kept as their bits (`Uint16Array`); float16.ts converts. Nothing here copies data.
 */

/** dtype names of the safetensors format that Vision Bridge computes with or passes on. */
export const DTYPE_SIZES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
} as const;

export type DType = keyof typeof DTYPE_SIZES;

interface DTypeArrays {
  F64: Float64Array;
  F32: Float32Array;
  F16: Uint16Array;
  BF16: Uint16Array;
  I64: BigInt64Array;
  I32: Int32Array;
  I16: Int16Array;
  I8: Int8Array;
  U64: BigUint64Array;
  U32: Uint32Array;
  U16: Uint16Array;
  U8: Uint8Array;
  BOOL: Uint8Array;
  F8_E4M3: Uint8Array;
  F8_E5M2: Uint8Array;
}

export type Shape = readonly number[];

interface TensorOf<D extends DType> {
  readonly dtype: D;
  readonly shape: Shape;
  /** Row-major; F16 and BF16 as bits. */
  readonly data: DTypeArrays[D];
}

export type F32Tensor = TensorOf<'F32'>;
export type U8Tensor = TensorOf<'U8'>;
/** A tensor of any dtype; narrow by `dtype`. */
export type Tensor = { [D in DType]: TensorOf<D> }[DType];

/** Number of elements; 1 for a scalar shape `[]`. */
export function elementCount(shape: Shape): number {
  return shape.reduce((product, side) => product * side, 1);
}

/** An f32 tensor over `data`, which is not copied. @throws {RangeError} when length and shape disagree. */
export function f32Tensor(shape: Shape, data: Float32Array): F32Tensor {
  if (data.length !== elementCount(shape)) {
    throw new RangeError(`shape [${shape.join(', ')}] needs ${elementCount(shape)} values, got ${data.length}`);
  }
  return { dtype: 'F32', shape, data };
}

/** Rows of a batch, from one on: `[count, …]` over the same memory. @throws {RangeError} for rows that it has not */
export function viewRows({ shape: [, ...sides], data }: F32Tensor, first: number, count = 1): F32Tensor {
  const length = elementCount(sides);
  return f32Tensor([count, ...sides], data.subarray(first * length, (first + count) * length));
}

/** A u8 tensor over `data`, which is not copied. @throws {RangeError} when length and shape disagree. */
export function u8Tensor(shape: Shape, data: Uint8Array): U8Tensor {
  if (data.length !== elementCount(shape)) {
    throw new RangeError(`shape [${shape.join(', ')}] needs ${elementCount(shape)} values, got ${data.length}`);
  }
  return { dtype: 'U8', shape, data };
}

/** A typed view of little-endian bytes; copies only where the alignment demands it. */
export function tensorFromBytes(dtype: DType, shape: Shape, bytes: Uint8Array): Tensor {
  const size = DTYPE_SIZES[dtype];
  if (bytes.byteLength !== elementCount(shape) * size) {
    throw new RangeError(
      `${dtype} [${shape.join(', ')}] needs ${elementCount(shape) * size} bytes, got ${bytes.byteLength}`,
    );
  }
  // Not `slice`: a Buffer's gives a view.
  const aligned = bytes.byteOffset % size === 0 ? bytes : Uint8Array.from(bytes);
  const { buffer, byteOffset } = aligned;
  const length = aligned.byteLength / size;
  switch (dtype) {
    case 'F64':
      return { dtype, shape, data: new Float64Array(buffer, byteOffset, length) };
    case 'F32':
      return { dtype, shape, data: new Float32Array(buffer, byteOffset, length) };
    case 'F16':
    case 'BF16':
    case 'U16':
      return { dtype, shape, data: new Uint16Array(buffer, byteOffset, length) };
    case 'I64':
      return { dtype, shape, data: new BigInt64Array(buffer, byteOffset, length) };
    case 'I32':
      return { dtype, shape, data: new Int32Array(buffer, byteOffset, length) };
    case 'I16':
      return { dtype, shape, data: new Int16Array(buffer, byteOffset, length) };
    case 'I8':
      return { dtype, shape, data: new Int8Array(buffer, byteOffset, length) };
    case 'U64':
      return { dtype, shape, data: new BigUint64Array(buffer, byteOffset, length) };
    case 'U32':
      return { dtype, shape, data: new Uint32Array(buffer, byteOffset, length) };
    case 'U8':
    case 'BOOL':
    case 'F8_E4M3':
    case 'F8_E5M2':
      return { dtype, shape, data: new Uint8Array(buffer, byteOffset, length) };
  }
}

/** The tensor's bytes, little-endian, without a copy. */
export function tensorBytes(tensor: Tensor): Uint8Array {
  return new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
}
