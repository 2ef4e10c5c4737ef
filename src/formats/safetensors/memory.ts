/** safetensors in memory: how tensors travel over HTTP and into the output folder. */
import { ModelFormatError } from '../../common/errors.js';
import { tensorBytes, tensorFromBytes, type Tensor } from '../../tensor/tensor.js';
import { knownDType } from './file.js';
import { headerLength, parseHeader } from './header.js';

interface SafetensorsContent {
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly metadata: ReadonlyMap<string, string>;
}

/** Data begins at a multiple of this, so that readers can map it; the header is padded with blanks. */
const ALIGNMENT = 8;

/**
 * Views of the tensors in a safetensors document; data is copied only where alignment demands it.
 *
 * @param label Names the document in messages.
 * @throws {ModelFormatError} `SAFETENSORS_INVALID`, `TENSOR_INVALID`
 */
export function parseSafetensors(bytes: Uint8Array, label = 'The body'): SafetensorsContent {
  const length = headerLength(bytes.subarray(0, 8), bytes.byteLength, label);
  const header = parseHeader(bytes.subarray(8, 8 + length), 8 + length, bytes.byteLength, label);
  const tensors = new Map<string, Tensor>();
  for (const [name, info] of header.tensors) {
    const data = bytes.subarray(info.offset, info.offset + info.sizeBytes);
    tensors.set(name, tensorFromBytes(knownDType(info), info.shape, data));
  }
  return { tensors, metadata: header.metadata };
}

/** A safetensors document of these tensors, ordered as the reference writer orders them: wide dtypes first, then names. */
export function serializeSafetensors(
  tensors: Readonly<Record<string, Tensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  const parts = safetensorsParts(tensors, metadata);
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let position = 0;
  for (const part of parts) {
    bytes.set(part, position);
    position += part.byteLength;
  }
  return bytes;
}

/** The same document as parts that follow each other: its header, and views of the tensors. */
export function safetensorsParts(
  tensors: Readonly<Record<string, Tensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array[] {
  const ordered = Object.entries(tensors).sort(
    ([nameA, a], [nameB, b]) => b.data.BYTES_PER_ELEMENT - a.data.BYTES_PER_ELEMENT || (nameA < nameB ? -1 : 1),
  );
  const header: Record<string, unknown> = Object.keys(metadata).length > 0 ? { __metadata__: metadata } : {};
  let end = 0;
  for (const [name, { dtype, shape, data }] of ordered) {
    if (name === '__metadata__' || name === '__proto__') {
      throw new ModelFormatError('TENSOR_INVALID', `A tensor cannot be called ${name}.`);
    }
    header[name] = { dtype, shape, data_offsets: [end, end + data.byteLength] };
    end += data.byteLength;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const headerBytes = Math.ceil(json.byteLength / ALIGNMENT) * ALIGNMENT;
  const head = new Uint8Array(8 + headerBytes).fill(0x20, 8);
  new DataView(head.buffer).setBigUint64(0, BigInt(headerBytes), true);
  head.set(json, 8);
  return [head, ...ordered.map(([, tensor]) => tensorBytes(tensor))];
}
