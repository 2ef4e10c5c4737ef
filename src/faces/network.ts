/**
 * What a face network is, from its ONNX file's own description: inputs, outputs and the names of its first layers.
 *
 * The file is walked field by field; weights are stepped over, so that a folder of networks is known in milliseconds.
 * Field numbers are those of onnx.proto. Nothing in the file is trusted.
 */
import { realpath, stat, type FileHandle } from 'node:fs/promises';
import { basename } from 'node:path';
import { BridgeError, ModelFormatError, ModelNotFoundError, messageOf, systemCodeOf } from '../common/errors.js';
import { openRegularFile } from '../common/regular-file.js';

/** A tensor that goes in or comes out; -1 stands for a side that is known only at run time. */
interface NetworkValue {
  readonly name: string;
  readonly shape: readonly number[];
}

export interface FaceNetwork {
  /** Real path. */
  readonly path: string;
  readonly kind: 'detector' | 'recogniser' | 'other';
  /** The picture that goes in: `[N, 3, H, W]`. */
  readonly input: NetworkValue;
  readonly outputs: readonly NetworkValue[];
  /** The network shifts and scales its input itself, as old exports do; it takes levels 0..255. */
  readonly isSelfNormalizing: boolean;
}

const GRAPH = 7;
const GRAPH_NODE = 1;
const GRAPH_INPUT = 11;
const GRAPH_OUTPUT = 12;
const NODE_NAME = 3;
const VALUE_NAME = 1;
const VALUE_TYPE = 2;
const MAX_FIELDS = 200_000;
const MAX_NAME_BYTES = 4096;
const MAX_VALUE_BYTES = 65_536;
/** Layers among which the reference looks for a shift and a scale. */
const FIRST_LAYERS = 8;
/** A tag and a length are ten bytes each at most. */
const FIELD_HEAD_BYTES = 20;

/** Sides of the networks that estimate landmarks; everything else about them is like a recogniser's. */
const LANDMARK_SIDE = 192;
const SMALLEST_RECOGNISER_SIDE = 112;
const RECOGNISER_STEP = 16;
/** Three strides: scores, boxes and landmarks of each; five strides likewise. Without landmarks faces cannot be aligned. */
const DETECTOR_OUTPUTS = [9, 15];

/**
 * Reads what a network is.
 *
 * @throws {ModelNotFoundError}; {ModelFormatError} `MODEL_UNREADABLE`, `MODEL_FORMAT_UNSUPPORTED` when it is no ONNX network
 *   over pictures.
 */
export async function readFaceNetwork(path: string): Promise<FaceNetwork> {
  try {
    const real = await realpath(path);
    const file = await openRegularFile(real);
    try {
      return await describe(file, real);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    if (error instanceof NotOnnx) throw unsupported(path, error.message);
    if (systemCodeOf(error) === 'ENOENT' || systemCodeOf(error) === 'ENOTDIR') {
      throw new ModelNotFoundError(`There is no face network ${path}.`, { cause: error, details: { path } });
    }
    throw new ModelFormatError('MODEL_UNREADABLE', `${path} cannot be read: ${messageOf(error)}.`, {
      cause: error,
      details: { path },
    });
  }
}

/** What identifies the state of a network's file on this machine. */
export async function networkStamp(path: string): Promise<string> {
  const { dev, ino, size, mtimeMs } = await stat(path);
  return `${dev}:${ino}:${size}:${mtimeMs}`;
}

class NotOnnx extends Error {}

interface Field {
  readonly number: number;
  /** Range of a length-delimited field's content; empty for numbers. */
  readonly begin: number;
  readonly end: number;
  /** Content of a number; 0 for other fields. */
  readonly value: number;
}

async function describe(file: FileHandle, path: string): Promise<FaceNetwork> {
  const { size } = await file.stat();
  const budget = { left: MAX_FIELDS };
  const inputs: NetworkValue[] = [];
  const outputs: NetworkValue[] = [];
  const layers: string[] = [];
  let hasGraph = false;
  for await (const model of fields(file, 0, size, budget)) {
    if (model.number !== GRAPH) continue;
    hasGraph = true;
    for await (const field of fields(file, model.begin, model.end, budget)) {
      if (field.number === GRAPH_NODE && layers.length < FIRST_LAYERS) layers.push(await nodeName(file, field, budget));
      else if (field.number === GRAPH_INPUT) inputs.push(parseValue(await content(file, field, MAX_VALUE_BYTES)));
      else if (field.number === GRAPH_OUTPUT) outputs.push(parseValue(await content(file, field, MAX_VALUE_BYTES)));
    }
  }
  if (!hasGraph) throw new NotOnnx('it has no graph');
  // Old exports list their weights as inputs too; the picture alone has four dimensions.
  const input = inputs.find(({ shape }) => shape.length === 4 && (shape[1] === 3 || shape[1] === -1));
  if (input === undefined) throw new NotOnnx('it takes no picture [N, 3, H, W]');
  const has = (...starts: string[]): boolean =>
    layers.some((name) => starts.some((start) => name.toLowerCase().startsWith(start)));
  return {
    path,
    kind: kindOf(input, outputs),
    input,
    outputs,
    isSelfNormalizing: has('sub', '_minus') && has('mul', '_mul'),
  };
}

function kindOf({ shape }: NetworkValue, outputs: readonly NetworkValue[]): FaceNetwork['kind'] {
  if (DETECTOR_OUTPUTS.includes(outputs.length)) return 'detector';
  const [, , height = -1, width = -1] = shape;
  const isSquare = height === width && height >= SMALLEST_RECOGNISER_SIDE && height % RECOGNISER_STEP === 0;
  const rank = outputs[0]?.shape.length ?? 0;
  const isVector = outputs.length === 1 && (rank === 2 || rank === 0);
  return isSquare && height !== LANDMARK_SIDE && isVector ? 'recogniser' : 'other';
}

async function* fields(file: FileHandle, begin: number, end: number, budget: { left: number }): AsyncGenerator<Field> {
  const head = new Uint8Array(FIELD_HEAD_BYTES);
  let position = begin;
  while (position < end) {
    budget.left -= 1;
    if (budget.left < 0) throw new NotOnnx(`it has more than ${MAX_FIELDS} fields`);
    const { bytesRead } = await file.read(head, 0, Math.min(FIELD_HEAD_BYTES, end - position), position);
    const { field, next } = parseField(head.subarray(0, bytesRead), position, end);
    yield field;
    position = next;
  }
}

/** One field at the start of `bytes`, which lie at `position`. */
function parseField(bytes: Uint8Array, position: number, end: number): { field: Field; next: number } {
  const tag = varint(bytes, 0);
  const number = Math.floor(tag.value / 8);
  const empty = { number, begin: position, end: position, value: 0 };
  let next: number;
  let field: Field = empty;
  switch (tag.value % 8) {
    case 0: {
      const content = varint(bytes, tag.length);
      next = position + tag.length + content.length;
      field = { ...empty, value: content.value };
      break;
    }
    case 1:
      next = position + tag.length + 8;
      break;
    case 2: {
      const size = varint(bytes, tag.length);
      const start = position + tag.length + size.length;
      next = start + size.value;
      field = { ...empty, begin: start, end: next };
      break;
    }
    case 5:
      next = position + tag.length + 4;
      break;
    default:
      throw new NotOnnx('its fields cannot be read');
  }
  if (number === 0 || next > end) throw new NotOnnx('a field reaches beyond its end; a truncated download?');
  return { field, next };
}

function varint(bytes: Uint8Array, at: number): { value: number; length: number } {
  let value = 0;
  for (let i = 0; i < 10; i += 1) {
    const byte = bytes[at + i];
    if (byte === undefined) throw new NotOnnx('it ends within a number; a truncated download?');
    value += (byte & 0x7f) * 2 ** (7 * i);
    if (byte < 0x80) return { value, length: i + 1 };
  }
  throw new NotOnnx('a number in it has no end');
}

async function content(file: FileHandle, { begin, end }: Field, limit: number): Promise<Uint8Array> {
  if (end - begin > limit) throw new NotOnnx(`a description in it has ${end - begin} bytes`);
  const bytes = new Uint8Array(end - begin);
  const { bytesRead } = await file.read(bytes, 0, bytes.length, begin);
  if (bytesRead !== bytes.length) throw new NotOnnx('it became shorter while it was read');
  return bytes;
}

async function nodeName(file: FileHandle, node: Field, budget: { left: number }): Promise<string> {
  for await (const field of fields(file, node.begin, node.end, budget)) {
    if (field.number === NODE_NAME) return new TextDecoder().decode(await content(file, field, MAX_NAME_BYTES));
  }
  return '';
}

function* fieldsOf(bytes: Uint8Array): Generator<{ number: number; value: number; content: Uint8Array }> {
  let position = 0;
  while (position < bytes.length) {
    const { field, next } = parseField(bytes.subarray(position), position, bytes.length);
    yield { number: field.number, value: field.value, content: bytes.subarray(field.begin, field.end) };
    position = next;
  }
}

/** ValueInfoProto: a name, and a tensor type whose shape has sides with a number, a name, or neither. */
function parseValue(bytes: Uint8Array): NetworkValue {
  let name = '';
  const shape: number[] = [];
  for (const field of fieldsOf(bytes)) {
    if (field.number === VALUE_NAME) name = new TextDecoder().decode(field.content);
    if (field.number !== VALUE_TYPE) continue;
    for (const type of fieldsOf(field.content)) {
      if (type.number !== 1) continue; // tensors only
      for (const part of fieldsOf(type.content)) {
        if (part.number !== 2) continue; // 1 is the type of elements
        for (const side of fieldsOf(part.content)) {
          const number = [...fieldsOf(side.content)].find((entry) => entry.number === 1)?.value;
          shape.push(number === undefined || !Number.isSafeInteger(number) || number < 1 ? -1 : number);
        }
      }
    }
  }
  return { name, shape };
}

function unsupported(path: string, problem: string): ModelFormatError {
  return new ModelFormatError('MODEL_FORMAT_UNSUPPORTED', `${basename(path)} is no face network: ${problem}.`, {
    details: { path },
  });
}
