/**
 * Whether the values of a model are numbers: NaN and infinity, counted per tensor.
 *
 * Reads the whole file in pieces of 4 MiB, in a thread. Quantised blocks and whole numbers are not looked at, and told as
 * unchecked: nothing is called sound that was not read.
 */
import { closeSync, readSync } from 'node:fs';
import { basename } from 'node:path';
import { ModelFormatError } from '../common/errors.js';
import { openRegularFileSync } from '../common/regular-file.js';
import { ByteSource, readFileHeader, readGgufHeader } from '../formats/index.js';
import type { ModelFormat } from './read-model.js';

interface TensorProblem {
  readonly name: string;
  readonly dtype: string;
  readonly values: number;
  readonly nan: number;
  readonly infinite: number;
}

export interface ValueCheck {
  readonly checkedTensors: number;
  readonly checkedValues: number;
  readonly nan: number;
  readonly infinite: number;
  /** Tensors with such values, in the order of the file; at most 200 of them. */
  readonly tensors: readonly TensorProblem[];
  /** How many tensors there are, beyond the ones listed too. */
  readonly badTensors: number;
  /** Tensors whose values were not looked at, by dtype. */
  readonly unchecked: Readonly<Record<string, number>>;
}

const CHUNK_BYTES = 4 * 2 ** 20;
const MAX_LISTED = 200;

/** Values of a dtype in words of 32 bits, by bit masks: an exponent of ones only is no number. */
interface FloatForm {
  readonly bytes: 1 | 2 | 4 | 8;
  /** Bits that are all set in every value that is no number. */
  readonly mark: number;
  /** The bits of the fraction: any set means NaN, none infinity. Absent where the dtype has no infinity. */
  readonly fraction?: number;
  /** The one value among those of the mark that is none. */
  readonly only?: number;
}

const FLOATS: Readonly<Record<string, FloatForm>> = {
  F64: { bytes: 8, mark: 0x7ff00000, fraction: 0x000fffff },
  F32: { bytes: 4, mark: 0x7f800000, fraction: 0x007fffff },
  C64: { bytes: 4, mark: 0x7f800000, fraction: 0x007fffff },
  F16: { bytes: 2, mark: 0x7c00, fraction: 0x03ff },
  BF16: { bytes: 2, mark: 0x7f80, fraction: 0x007f },
  F8_E5M2: { bytes: 1, mark: 0x7c, fraction: 0x03 },
  F8_E4M3: { bytes: 1, mark: 0x7f },
  F8_E8M0: { bytes: 1, mark: 0xff },
  // The sign alone, which is no zero there.
  F8_E4M3FNUZ: { bytes: 1, mark: 0xff, only: 0x80 },
  F8_E5M2FNUZ: { bytes: 1, mark: 0xff, only: 0x80 },
};

interface StoredTensor {
  readonly name: string;
  readonly dtype: string;
  readonly offset: number;
  readonly sizeBytes: number;
}

/**
 * Checks all tensors of a file.
 *
 * @param onChunk Called after each piece with the bytes that are done; the next is read when it settles.
 * @throws {ModelFormatError} what reading its header throws; `MODEL_FORMAT_UNSUPPORTED` for ONNX files.
 */
export async function checkValues(
  path: string,
  format: ModelFormat,
  onChunk?: (doneBytes: number) => void | Promise<void>,
): Promise<ValueCheck> {
  const tensors = await findTensors(path, format);
  const unchecked: Record<string, number> = {};
  const problems: TensorProblem[] = [];
  const sums = { checkedTensors: 0, checkedValues: 0, nan: 0, infinite: 0, badTensors: 0 };
  const words = new Uint32Array(CHUNK_BYTES / 4);
  const bytes = new Uint8Array(words.buffer);
  const { file } = openRegularFileSync(path);
  let done = 0;
  let sinceTold = 0;
  try {
    for (const { name, dtype, offset, sizeBytes } of tensors) {
      const form = FLOATS[dtype];
      if (form === undefined) {
        unchecked[dtype] = (unchecked[dtype] ?? 0) + 1;
        continue;
      }
      const counts = { nan: 0, infinite: 0 };
      for (let at = 0; at < sizeBytes; at += CHUNK_BYTES) {
        const length = Math.min(CHUNK_BYTES, sizeBytes - at);
        readFully(file, bytes.subarray(0, length), offset + at, path);
        count(words, bytes, length, form, counts);
        done += length;
        sinceTold += length;
        if (sinceTold < CHUNK_BYTES) continue;
        sinceTold = 0;
        await onChunk?.(done);
      }
      const values = sizeBytes / form.bytes;
      sums.checkedTensors += 1;
      sums.checkedValues += values;
      sums.nan += counts.nan;
      sums.infinite += counts.infinite;
      if (counts.nan + counts.infinite === 0) continue;
      sums.badTensors += 1;
      if (problems.length < MAX_LISTED) problems.push({ name, dtype, values, ...counts });
    }
  } finally {
    closeSync(file);
  }
  return { ...sums, tensors: problems, unchecked };
}

async function findTensors(path: string, format: ModelFormat): Promise<StoredTensor[]> {
  if (format === 'onnx')
    throw new ModelFormatError('MODEL_FORMAT_UNSUPPORTED', `${basename(path)}: values of ONNX files are not checked.`);
  if (format === 'gguf') return findGgufTensors(path);
  const { tensors, strided } = await readFileHeader(path, { soleTensor: 'tensor' });
  const found: StoredTensor[] = [...tensors.values()];
  for (const { name, dtype, shape, strides, offset, sizeBytes } of strided.values()) {
    // A transposed view covers its range without holes; of one with holes, other values lie between.
    const reach = shape.reduce((sum, side, i) => sum + (side - 1) * (strides[i] ?? 0), 1);
    const isWhole = reach === shape.reduce((product, side) => product * side, 1);
    found.push({ name, dtype: isWhole ? dtype : `${dtype} (a view with holes)`, offset, sizeBytes });
  }
  return found;
}

function findGgufTensors(path: string): StoredTensor[] {
  const { file, stats } = openRegularFileSync(path);
  try {
    const { table } = readGgufHeader(new ByteSource(file, stats.size), basename(path));
    const { offsets, sizes } = table.columns;
    return Array.from({ length: table.count }, (_none, i) => ({
      name: table.name(i),
      dtype: table.dtype(i),
      offset: offsets[i] ?? 0,
      sizeBytes: sizes[i] ?? 0,
    }));
  } finally {
    closeSync(file);
  }
}

function readFully(file: number, target: Uint8Array, position: number, path: string): void {
  for (let done = 0; done < target.length;) {
    const count = readSync(file, target, done, target.length - done, position + done);
    if (count === 0)
      throw new ModelFormatError('MODEL_UNREADABLE', `${path} became shorter while it was read.`, {
        details: { path },
      });
    done += count;
  }
}

/** Counts what is no number among the first `length` bytes of the buffer. */
function count(
  words: Uint32Array,
  bytes: Uint8Array,
  length: number,
  form: FloatForm,
  counts: { nan: number; infinite: number },
): void {
  const { bytes: size, mark, fraction, only = mark } = form;
  if (size === 8) {
    for (let i = 1; i < length / 4; i += 2) {
      const high = words[i] ?? 0;
      if ((high & mark) !== mark) continue;
      if ((high & (fraction ?? 0)) === 0 && words[i - 1] === 0) counts.infinite += 1;
      else counts.nan += 1;
    }
    return;
  }
  // Several values lie in one word: one test for all, and a closer look only where it tells something.
  const shift = size * 8;
  const lanes = size === 1 ? 0x01010101 : size === 2 ? 0x00010001 : 1;
  const wide = Math.imul(mark, lanes) | 0;
  const carry = Math.imul(mark & -mark, lanes) | 0;
  // Adding the lowest bit of the mark overflows into the bit above it only where all of its bits are set.
  const over = mark === 0xff ? 0 : Math.imul(mark + (mark & -mark), lanes) | 0;
  const whole = length >>> 2;
  for (let i = 0; i < whole; i += 1) {
    const word = words[i] ?? 0;
    if (over !== 0 && (((word & wide) + carry) & over) === 0) continue;
    for (let bits = 0; bits < 32; bits += shift) add((word >>> bits) & (size === 4 ? -1 : (1 << shift) - 1));
  }
  for (let at = whole * 4; at < length; at += size) {
    let value = 0;
    for (let i = 0; i < size; i += 1) value |= (bytes[at + i] ?? 0) << (8 * i);
    add(value);
  }
  function add(value: number): void {
    if ((value & mark) !== only) return;
    if (fraction !== undefined && (value & fraction) === 0) counts.infinite += 1;
    else counts.nan += 1;
  }
}
