/**
 * The header of a GGUF file: keys with values, and the tensors' names, shapes and types. No tensor data is read.
 *
 * Every count and length is checked against the file before it is used; long lists (a tokenizer's words) are walked, and
 * only their beginning is kept.
 *
 * Source: the GGUF specification of ggml, versions 2 and 3.
 */
import { ModelFormatError } from '../../common/errors.js';
import { EndOfFile, type ByteSource } from '../byte-source.js';
import { TensorTable, type TensorEntry } from '../tensor-table.js';

type GgufValue = string | number | boolean | readonly GgufValue[];

export interface GgufHeader {
  readonly version: number;
  readonly keys: ReadonlyMap<string, GgufValue>;
  /** Sides in the order of the tensor, slowest first: the file stores them fastest first. */
  readonly table: TensorTable;
  /** Bytes up to where the tensors begin. */
  readonly headerBytes: number;
}

const MAGIC = 0x46554747; // "GGUF"
const MAX_DIMENSIONS = 8;
const MAX_TEXT_BYTES = 1_000_000;
const MAX_NESTING = 4;
/** Elements of a list that are kept. */
const MAX_KEPT = 32;
/** A vocabulary has a quarter of a million words; more elements than this are a mistake. */
const MAX_ELEMENTS = 10_000_000;
/** A key takes 13 bytes at least, a tensor 24. */
const MIN_KEY_BYTES = 13;
const MIN_TENSOR_BYTES = 24;
const DEFAULT_ALIGNMENT = 32;

/** ggml's types by number: name, elements per block, bytes per block. */
const TYPES: Readonly<Record<number, readonly [name: string, elements: number, bytes: number]>> = {
  0: ['F32', 1, 4],
  1: ['F16', 1, 2],
  2: ['Q4_0', 32, 18],
  3: ['Q4_1', 32, 20],
  6: ['Q5_0', 32, 22],
  7: ['Q5_1', 32, 24],
  8: ['Q8_0', 32, 34],
  9: ['Q8_1', 32, 36],
  10: ['Q2_K', 256, 84],
  11: ['Q3_K', 256, 110],
  12: ['Q4_K', 256, 144],
  13: ['Q5_K', 256, 176],
  14: ['Q6_K', 256, 210],
  15: ['Q8_K', 256, 292],
  16: ['IQ2_XXS', 256, 66],
  17: ['IQ2_XS', 256, 74],
  18: ['IQ3_XXS', 256, 98],
  19: ['IQ1_S', 256, 50],
  20: ['IQ4_NL', 32, 18],
  21: ['IQ3_S', 256, 110],
  22: ['IQ2_S', 256, 82],
  23: ['IQ4_XS', 256, 136],
  24: ['I8', 1, 1],
  25: ['I16', 1, 2],
  26: ['I32', 1, 4],
  27: ['I64', 1, 8],
  28: ['F64', 1, 8],
  29: ['IQ1_M', 256, 56],
  30: ['BF16', 1, 2],
  34: ['TQ1_0', 256, 54],
  35: ['TQ2_0', 256, 66],
  39: ['MXFP4', 32, 17],
};

/** Sizes of scalar values by their type number. */
const SCALAR_BYTES: Readonly<Record<number, number>> = {
  0: 1,
  1: 1,
  2: 2,
  3: 2,
  4: 4,
  5: 4,
  6: 4,
  7: 1,
  10: 8,
  11: 8,
  12: 8,
};
const TEXT = 8;
const LIST = 9;

/** Why a file is refused, without its name. */
class GgufProblem extends Error {}

/**
 * Reads and checks a header.
 *
 * @throws {ModelFormatError} `GGUF_INVALID`, saying what is wrong.
 */
export function readGgufHeader(source: ByteSource, label: string): GgufHeader {
  try {
    return new GgufReader(source).read();
  } catch (error) {
    const problem =
      error instanceof EndOfFile
        ? `it ends inside its header (${source.sizeBytes} bytes): a truncated download?`
        : error instanceof GgufProblem
          ? error.message
          : undefined;
    if (problem === undefined) throw error;
    throw new ModelFormatError('GGUF_INVALID', `${label} is not a usable GGUF file: ${problem}.`, {
      details: { file: label, problem },
    });
  }
}

class GgufReader {
  readonly #source: ByteSource;
  #at = 0;

  constructor(source: ByteSource) {
    this.#source = source;
  }

  read(): GgufHeader {
    if (this.#u32() !== MAGIC) throw new GgufProblem('it does not begin with "GGUF"');
    const version = this.#u32();
    if (version !== 2 && version !== 3) throw new GgufProblem(`it has version ${version}; 2 and 3 are known`);
    const tensorCount = this.#count(MIN_TENSOR_BYTES, 'tensors');
    const keyCount = this.#count(MIN_KEY_BYTES, 'keys');
    const keys = new Map<string, GgufValue>();
    for (let i = 0; i < keyCount; i += 1) {
      const name = this.#text();
      keys.set(name, this.#value(this.#u32(), 0));
    }
    const entries: TensorEntry[] = [];
    for (let i = 0; i < tensorCount; i += 1) entries.push(this.#tensor());
    const alignment = keys.get('general.alignment') ?? DEFAULT_ALIGNMENT;
    if (typeof alignment !== 'number' || alignment < 1 || alignment > 1_048_576)
      throw new GgufProblem('it has an absurd alignment');
    const headerBytes = Math.ceil(this.#at / alignment) * alignment;
    for (const { name, offset, sizeBytes } of entries) {
      if (headerBytes + offset + sizeBytes > this.#source.sizeBytes) {
        throw new GgufProblem(
          `tensor ${JSON.stringify(name)} ends at ${headerBytes + offset + sizeBytes}, but the file has ${this.#source.sizeBytes} bytes: a truncated download?`,
        );
      }
    }
    return { version, keys, table: TensorTable.fromEntries(entries), headerBytes };
  }

  #tensor(): TensorEntry {
    const name = this.#text();
    const dimensions = this.#u32();
    if (dimensions > MAX_DIMENSIONS)
      throw new GgufProblem(`tensor ${JSON.stringify(name)} has ${dimensions} dimensions`);
    const shape = Array.from({ length: dimensions }, () => this.#u64()).reverse();
    const type = this.#u32();
    const offset = this.#u64();
    const [dtype, elements, bytes] = TYPES[type] ?? [`type ${type}`, 1, 0];
    const count = shape.reduce((product, side) => product * side, 1);
    if (!Number.isSafeInteger(count)) throw new GgufProblem(`tensor ${JSON.stringify(name)} has an absurd shape`);
    return { name, dtype, shape, offset, sizeBytes: Math.ceil(count / elements) * bytes };
  }

  #value(type: number, nesting: number): GgufValue {
    if (type === TEXT) return this.#text();
    if (type === LIST) return this.#list(nesting);
    const size = SCALAR_BYTES[type];
    if (size === undefined) throw new GgufProblem(`it has a value of the unknown type ${type}`);
    const bytes = this.#take(size);
    switch (type) {
      case 0:
        return bytes.readUInt8();
      case 1:
        return bytes.readInt8();
      case 2:
        return bytes.readUInt16LE();
      case 3:
        return bytes.readInt16LE();
      case 4:
        return bytes.readUInt32LE();
      case 5:
        return bytes.readInt32LE();
      case 6:
        return bytes.readFloatLE();
      case 7:
        return bytes.readUInt8() !== 0;
      case 10:
        return Number(bytes.readBigUInt64LE());
      case 11:
        return Number(bytes.readBigInt64LE());
      default:
        return bytes.readDoubleLE();
    }
  }

  #list(nesting: number): GgufValue {
    if (nesting >= MAX_NESTING) throw new GgufProblem('it has lists in lists in lists');
    const type = this.#u32();
    const size = SCALAR_BYTES[type];
    const length = this.#count(size ?? 8, 'elements of a list');
    if (length > MAX_ELEMENTS) throw new GgufProblem(`it has a list of ${length} elements`);
    const kept: GgufValue[] = [];
    for (let i = 0; i < length; i += 1) {
      if (size !== undefined && i === MAX_KEPT) {
        this.#at += (length - i) * size;
        break;
      }
      if (i < MAX_KEPT) kept.push(this.#value(type, nesting + 1));
      else if (type === TEXT) this.#passText();
      else this.#value(type, nesting + 1);
    }
    return kept;
  }

  #textLength(): number {
    const length = this.#u64();
    if (length > MAX_TEXT_BYTES) throw new GgufProblem(`it has a text of ${length} bytes`);
    return length;
  }

  #passText(): void {
    // The length moves the position itself: it has to be read first.
    const length = this.#textLength();
    this.#at += length;
  }

  #text(): string {
    return this.#take(this.#textLength()).toString('utf8');
  }

  /** A number of things that take at least `bytes` each. */
  #count(bytes: number, what: string): number {
    const count = this.#u64();
    if (count * bytes > this.#source.sizeBytes)
      throw new GgufProblem(`it claims ${count} ${what} but has ${this.#source.sizeBytes} bytes`);
    return count;
  }

  #u32(): number {
    return this.#take(4).readUInt32LE();
  }

  #u64(): number {
    const value = this.#take(8).readBigUInt64LE();
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new GgufProblem(`it has the absurd number ${value}`);
    return Number(value);
  }

  #take(length: number): Buffer {
    const bytes = this.#source.read(this.#at, length);
    this.#at += length;
    return bytes;
  }
}
