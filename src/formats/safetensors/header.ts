/**
 * The safetensors header: bytes to validated tensor infos.
 *
 * A file is: u64 little-endian header length, that many bytes of JSON, then tensor data. Nothing here is trusted: every
 * length, offset, product and depth is bounded before it is used, as the reference reader (the `safetensors` crate) does;
 * where it is laxer than the format's text, we are as lax as it is.
 */
import { ModelFormatError } from '../../common/errors.js';
import type { TensorInfo } from '../model-header.js';

/** The limit of the reference reader. */
const MAX_HEADER_BYTES = 100_000_000;
const MAX_RANK = 32; // torch itself stops at 64; no model comes near
const MAX_NAME_LENGTH = 4096;

/** Bits per element of every dtype of the format, including the newest; the reader needs only sizes. */
export const DTYPE_BITS: Readonly<Record<string, number>> = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
};

export interface ParsedHeader {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: ReadonlyMap<string, string>;
}

/** Why a header is refused, without the file's name: the caller adds it. */
class HeaderProblem extends Error {}

/** Length of the JSON header from the first eight bytes. @throws {ModelFormatError} */
export function headerLength(firstBytes: Uint8Array, fileBytes: number, label: string): number {
  if (fileBytes < 8) throw invalid(label, `it has ${fileBytes} bytes, too few for a header`);
  const view = new DataView(firstBytes.buffer, firstBytes.byteOffset, firstBytes.byteLength);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw invalid(
      label,
      guessForeign(firstBytes) ?? `its header claims ${length} bytes; the limit is ${MAX_HEADER_BYTES}`,
    );
  }
  if (length > BigInt(fileBytes - 8)) {
    throw invalid(
      label,
      guessForeign(firstBytes) ??
        `its header claims ${length} bytes but the file has ${fileBytes}: a truncated download?`,
    );
  }
  return Number(length);
}

/**
 * Parses and checks the JSON of a header.
 *
 * @param json The header's bytes, without the length.
 * @param dataStart Absolute position of the first data byte.
 * @param fileBytes Size of the whole file.
 * @throws {ModelFormatError} `SAFETENSORS_INVALID`, naming the file by `label`, the tensor and the number that is wrong.
 */
export function parseHeader(json: Uint8Array, dataStart: number, fileBytes: number, label: string): ParsedHeader {
  try {
    return readEntries(parseJson(json), dataStart, fileBytes);
  } catch (error) {
    if (error instanceof HeaderProblem) throw invalid(label, error.message);
    throw error;
  }
}

/** The `__metadata__` object alone, for a reader that found where it lies; undefined when it is not sound. */
export function parseMetadata(json: Uint8Array): ReadonlyMap<string, string> | undefined {
  try {
    return readMetadata(parseJson(json));
  } catch (error) {
    if (error instanceof HeaderProblem) return undefined;
    throw error;
  }
}

function parseJson(json: Uint8Array): Record<string, unknown> {
  if (json[0] !== 0x7b) throw new HeaderProblem('its header does not begin with "{"');
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json));
  } catch (error) {
    throw new HeaderProblem(
      `its header is not JSON in UTF-8 (${error instanceof Error ? error.message : 'unreadable'})`,
    );
  }
  if (!isObject(value)) throw new HeaderProblem('its header is not a JSON object');
  return value;
}

function readEntries(entries: Record<string, unknown>, dataStart: number, fileBytes: number): ParsedHeader {
  const tensors = new Map<string, TensorInfo>();
  let metadata: ReadonlyMap<string, string> = new Map();
  for (const [name, entry] of Object.entries(entries)) {
    if (name === '__metadata__') metadata = readMetadata(entry);
    else tensors.set(name, readEntry(name, entry, dataStart));
  }
  checkLayout(tensors, dataStart, fileBytes);
  return { tensors, metadata };
}

function readMetadata(entry: unknown): ReadonlyMap<string, string> {
  if (!isObject(entry)) throw new HeaderProblem('its __metadata__ is not an object');
  const metadata = new Map<string, string>();
  for (const [key, value] of Object.entries(entry)) {
    if (typeof value !== 'string') throw new HeaderProblem(`its __metadata__ entry ${quote(key)} is not text`);
    metadata.set(key, value);
  }
  return metadata;
}

function readEntry(name: string, entry: unknown, dataStart: number): TensorInfo {
  if (name.length > MAX_NAME_LENGTH) throw new HeaderProblem(`a tensor name has ${name.length} characters`);
  const fail = (problem: string): never => {
    throw new HeaderProblem(`tensor ${quote(name)} ${problem}`);
  };
  if (!isObject(entry)) return fail('is not described by an object');
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== 'string') return fail('has no dtype');
  const bits = Object.hasOwn(DTYPE_BITS, dtype) ? DTYPE_BITS[dtype] : undefined;
  if (bits === undefined) return fail(`has the unknown dtype ${quote(dtype)}`);
  if (!isCounts(shape)) return fail('has a shape that is no list of whole numbers');
  if (shape.length > MAX_RANK) return fail(`has ${shape.length} dimensions`);
  if (!isCounts(offsets) || offsets.length !== 2) return fail('has data_offsets that are no pair of whole numbers');
  const [begin = 0, end = 0] = offsets;
  if (begin > end) return fail(`ends at ${end}, before it begins at ${begin}`);
  const sizeBits = shape.reduce((product, side) => product * side, bits);
  if (!Number.isSafeInteger(sizeBits)) return fail(`has an absurd shape [${shape.join(', ')}]`);
  if (sizeBits % 8 !== 0 || sizeBits / 8 !== end - begin) {
    return fail(`needs ${sizeBits / 8} bytes for ${dtype} [${shape.join(', ')}] but spans ${end - begin}`);
  }
  return { name, dtype, shape, offset: dataStart + begin, sizeBytes: end - begin };
}

/** The data must be covered from first to last byte, without gap or overlap, as the reference reader demands. */
function checkLayout(tensors: ReadonlyMap<string, TensorInfo>, dataStart: number, fileBytes: number): void {
  let end = dataStart;
  for (const tensor of [...tensors.values()].sort((a, b) => a.offset - b.offset || a.sizeBytes - b.sizeBytes)) {
    if (tensor.offset !== end) {
      const what =
        tensor.offset < end ? 'overlaps the tensor before it' : `leaves a hole of ${tensor.offset - end} bytes`;
      throw new HeaderProblem(`tensor ${quote(tensor.name)} ${what}`);
    }
    end += tensor.sizeBytes;
  }
  if (end > fileBytes) {
    throw new HeaderProblem(`its tensors need ${end} bytes but the file has ${fileBytes}: a truncated download?`);
  }
  if (end < fileBytes) {
    throw new HeaderProblem(`${fileBytes - end} bytes follow its last tensor: is it two files in one?`);
  }
}

/** What a file is that is no safetensors file at all, from its first bytes. */
function guessForeign(firstBytes: Uint8Array): string | undefined {
  const text = new TextDecoder('latin1').decode(firstBytes).trimStart().toLowerCase();
  if (text.startsWith('<!doctyp') || text.startsWith('<html')) {
    return 'it is a web page: the download got a login or error page instead of the model';
  }
  if (text.startsWith('version')) return 'it is a Git LFS pointer: run "git lfs pull" where it was cloned';
  if (text.startsWith('pk\u0003\u0004')) return 'it is a ZIP archive, perhaps a PyTorch file with a wrong ending';
  if (text.startsWith('gguf')) return 'it is a GGUF file with a wrong ending';
  if (firstBytes[0] === 0x80) return 'it is a Python pickle, perhaps an old PyTorch file; it is not opened';
  return undefined;
}

function invalid(label: string, problem: string): ModelFormatError {
  return new ModelFormatError('SAFETENSORS_INVALID', `${label} is not a usable safetensors file: ${problem}.`, {
    details: { file: label, problem },
  });
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCounts(value: unknown): value is number[] {
  return (
    Array.isArray(value) &&
    value.every((entry) => typeof entry === 'number' && Number.isSafeInteger(entry) && entry >= 0)
  );
}

function quote(name: string): string {
  return JSON.stringify(name.length > 120 ? `${name.slice(0, 120)}…` : name);
}
