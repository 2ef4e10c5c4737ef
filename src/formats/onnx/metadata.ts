/**
 * What an ONNX file says of itself: producer, inputs, outputs, weights by name and shape. Weights are passed over.
 *
 * The file is a protobuf message; only its wire format is walked, so that a model of gigabytes costs some small reads.
 *
 * Source: onnx.proto, messages ModelProto, GraphProto, TensorProto, ValueInfoProto.
 */
import { ModelFormatError } from '../../common/errors.js';
import { EndOfFile, type ByteSource } from '../byte-source.js';
import { TensorTable, type TensorEntry } from '../tensor-table.js';

interface OnnxValueInfo {
  readonly name: string;
  /** A side that is not fixed is undefined. */
  readonly shape: readonly (number | undefined)[];
}

export interface OnnxMetadata {
  readonly producer: string;
  readonly nodes: number;
  readonly inputs: readonly OnnxValueInfo[];
  readonly outputs: readonly OnnxValueInfo[];
  readonly properties: ReadonlyMap<string, string>;
  readonly table: TensorTable;
}

/** Number of a field and its kind; for `bytes` where they lie. */
interface Field {
  readonly number: number;
  readonly value: number;
  /** Position after the field. */
  readonly end: number;
  /** Position of the bytes of a length-delimited field, else -1. */
  readonly start: number;
}

class OnnxProblem extends Error {}

const MAX_TEXT_BYTES = 100_000;
const MAX_ENTRIES = 100_000;
const MAX_RANK = 32;
/** TensorProto.DataType: name and bits. */
const DATA_TYPES: Readonly<Record<number, readonly [name: string, bits: number]>> = {
  1: ['F32', 32],
  2: ['U8', 8],
  3: ['I8', 8],
  4: ['U16', 16],
  5: ['I16', 16],
  6: ['I32', 32],
  7: ['I64', 64],
  9: ['BOOL', 8],
  10: ['F16', 16],
  11: ['F64', 64],
  12: ['U32', 32],
  13: ['U64', 64],
  16: ['BF16', 16],
  17: ['F8_E4M3', 8],
  19: ['F8_E5M2', 8],
  21: ['U4', 4],
  22: ['I4', 4],
};

/** Reads the metadata. @throws {ModelFormatError} `ONNX_INVALID` */
export function readOnnxMetadata(source: ByteSource, label: string): OnnxMetadata {
  try {
    return readModel(source);
  } catch (error) {
    const problem =
      error instanceof EndOfFile
        ? 'it ends inside a message: a truncated download?'
        : error instanceof OnnxProblem
          ? error.message
          : undefined;
    if (problem === undefined) throw error;
    throw new ModelFormatError('ONNX_INVALID', `${label} is not a usable ONNX file: ${problem}.`, {
      details: { file: label, problem },
    });
  }
}

function readModel(source: ByteSource): OnnxMetadata {
  let producer = '';
  let graph: Field | undefined;
  const properties = new Map<string, string>();
  for (const field of fields(source, 0, source.sizeBytes)) {
    if (field.number === 2) producer = textOf(source, field);
    else if (field.number === 7) graph = field;
    else if (field.number === 14 && properties.size < MAX_ENTRIES) {
      const [key, value] = readPair(source, field);
      properties.set(key, value);
    }
  }
  if (graph === undefined || graph.start === -1) throw new OnnxProblem('it holds no graph');
  const entries: TensorEntry[] = [];
  const inputs: OnnxValueInfo[] = [];
  const outputs: OnnxValueInfo[] = [];
  let nodes = 0;
  for (const field of fields(source, graph.start, graph.end)) {
    if (entries.length + inputs.length + outputs.length > MAX_ENTRIES) throw new OnnxProblem('it has too many entries');
    if (field.number === 1) nodes += 1;
    else if (field.number === 5) entries.push(readInitializer(source, field));
    else if (field.number === 11) inputs.push(readValueInfo(source, field));
    else if (field.number === 12) outputs.push(readValueInfo(source, field));
  }
  return { producer, nodes, inputs, outputs, properties, table: TensorTable.fromEntries(entries) };
}

function* fields(source: ByteSource, start: number, end: number): Generator<Field> {
  let at = start;
  while (at < end) {
    const tag = varint(source, at, end);
    const [number, wire] = [Math.floor(tag.value / 8), tag.value % 8];
    if (number === 0) throw new OnnxProblem('it is no protobuf message');
    let field: Field;
    if (wire === 0) {
      const { value, end: after } = varint(source, tag.end, end);
      field = { number, value, end: after, start: -1 };
    } else if (wire === 2) {
      const length = varint(source, tag.end, end);
      field = { number, value: length.value, start: length.end, end: length.end + length.value };
    } else if (wire === 1 || wire === 5) {
      field = { number, value: 0, end: tag.end + (wire === 1 ? 8 : 4), start: -1 };
    } else throw new OnnxProblem('it is no protobuf message');
    if (field.end > end) throw new EndOfFile();
    at = field.end;
    yield field;
  }
}

function varint(source: ByteSource, position: number, end: number): { value: number; end: number } {
  let value = 0;
  let factor = 1;
  for (let at = position; at < end && at < position + 10; at += 1) {
    const byte = source.read(at, 1)[0] ?? 0;
    value += (byte & 0x7f) * factor;
    if (byte < 0x80) return { value, end: at + 1 };
    factor *= 128;
  }
  throw new OnnxProblem('it has a number without an end');
}

function textOf(source: ByteSource, { start, value }: Field): string {
  if (start === -1 || value > MAX_TEXT_BYTES) throw new OnnxProblem('it has a text of absurd length');
  return source.read(start, value).toString('utf8');
}

function readPair(source: ByteSource, { start, end }: Field): [string, string] {
  let key = '';
  let value = '';
  for (const field of fields(source, start, end)) {
    if (field.number === 1) key = textOf(source, field);
    else if (field.number === 2) value = textOf(source, field);
  }
  return [key, value];
}

function readInitializer(source: ByteSource, { start, end }: Field): TensorEntry {
  const shape: number[] = [];
  let name = '';
  let type = 0;
  for (const field of fields(source, start, end)) {
    if (field.number === 1) shape.push(...readDims(source, field));
    else if (field.number === 2) type = field.value;
    else if (field.number === 8) name = textOf(source, field);
    if (shape.length > MAX_RANK) throw new OnnxProblem(`weight ${JSON.stringify(name)} has ${shape.length} dimensions`);
  }
  const [dtype, bits] = DATA_TYPES[type] ?? [`type ${type}`, 0];
  const elements = shape.reduce((product, side) => product * side, 1);
  if (!Number.isSafeInteger(elements * 64)) throw new OnnxProblem(`weight ${JSON.stringify(name)} has an absurd shape`);
  return { name, dtype, shape, offset: start, sizeBytes: Math.ceil((elements * bits) / 8) };
}

/** One side, or all of them packed. */
function readDims(source: ByteSource, field: Field): number[] {
  if (field.start === -1) return [field.value];
  const dims: number[] = [];
  for (let at = field.start; at < field.end && dims.length <= MAX_RANK;) {
    const { value, end } = varint(source, at, field.end);
    dims.push(value);
    at = end;
  }
  return dims;
}

function readValueInfo(source: ByteSource, { start, end }: Field): OnnxValueInfo {
  let name = '';
  const shape: (number | undefined)[] = [];
  for (const field of fields(source, start, end)) {
    if (field.number === 1) name = textOf(source, field);
    else if (field.number === 2) {
      // TypeProto.tensor_type.shape.dim
      for (const dimension of descend(source, [field], [1, 2, 1])) {
        if (shape.length > MAX_RANK) throw new OnnxProblem(`value ${JSON.stringify(name)} has too many dimensions`);
        const side = [...fields(source, dimension.start, dimension.end)].find(({ number }) => number === 1);
        shape.push(side?.start === -1 ? side.value : undefined);
      }
    }
  }
  return { name, shape };
}

/** Fields at the end of a path of field numbers. */
function descend(source: ByteSource, from: readonly Field[], path: readonly number[]): Field[] {
  let found = [...from];
  for (const wanted of path) {
    found = found.flatMap(({ start, end }) =>
      start === -1 ? [] : [...fields(source, start, end)].filter(({ number }) => number === wanted),
    );
  }
  return found;
}
