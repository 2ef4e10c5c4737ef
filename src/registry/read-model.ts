/**
 * One model file to what is known of it, from its header alone. Reading is synchronous but for PyTorch files: it runs in
 * the threads of a scan.
 *
 * The content decides on the format, not the ending. A broken file is a result like any other: its problem is told, and
 * the scan goes on.
 */
import { closeSync, readSync, type Stats } from 'node:fs';
import { basename, extname } from 'node:path';
import { BridgeError, messageOf } from '../common/errors.js';
import { openRegularFileSync } from '../common/regular-file.js';
import {
  ByteSource,
  HeaderScanner,
  headerLength,
  readGgufHeader,
  readOnnxMetadata,
  inspectPickle,
} from '../formats/index.js';
import { f16BitsToF32 } from '../tensor/float16.js';
import { classifyTable } from './classify/table.js';
import type { ModelFacts, TableFacts } from './classify/facts.js';
import { joinFacts, readMetadataFacts } from './classify/metadata.js';
import { describePickle } from './classify/pickles.js';
import { describeGguf, describeOnnx } from './classify/containers.js';

export type ModelFormat = 'safetensors' | 'gguf' | 'onnx' | 'pickle-zip' | 'pickle-legacy';
/** `incomplete`: cut off; `invalid`: no usable model; `unreadable`: the system refuses. */
export type ModelStatus = 'ok' | 'incomplete' | 'invalid' | 'unreadable';

interface GgufFacts {
  readonly version: number;
  readonly architecture?: string;
  readonly fileType?: number;
}

export interface PickleFacts {
  /** What unpickling would import, as `module.name`. */
  readonly globals: readonly string[];
  /** `safe`: tensors and plain containers only; `dangerous`: it would run commands; `unknown`: anything else. */
  readonly verdict: 'safe' | 'dangerous' | 'unknown';
  /** Those of the globals that run commands. */
  readonly dangerous?: readonly string[];
}

export interface ModelReading {
  readonly status: ModelStatus;
  /** Absent where the content belongs to no format. */
  readonly format?: ModelFormat;
  /** Why the file is not ok. */
  readonly problem?: string;
  readonly headerBytes?: number;
  readonly gguf?: GgufFacts;
  readonly pickle?: PickleFacts;
  /** Absent where the header could not be read. */
  readonly facts?: ModelFacts;
}

export interface FileStat {
  readonly device: number;
  readonly inode: number;
  readonly sizeBytes: number;
  readonly modifiedMs: number;
}

export type FileReading = ModelReading & { readonly stat?: FileStat };

/** A header of usual length is read in one go. */
const FIRST_READ_BYTES = 16_384;
const ZIP_MAGIC = 0x04034b50;
const PICKLE_PROTOCOL = 0x80;

function fileStatOf(stats: Stats): FileStat {
  return { device: stats.dev, inode: stats.ino, sizeBytes: stats.size, modifiedMs: stats.mtimeMs };
}

/** Reads files one after the other; remembers tables of tensors that it has seen. */
export class ModelReader {
  readonly #scanner = new HeaderScanner<TableFacts>(classifyTable);
  #buffer = Buffer.allocUnsafeSlow(1 << 18);
  /** What the last header took: the next one is probably as long. */
  #expectedBytes = FIRST_READ_BYTES;

  /**
   * Never rejects for a file that is broken, vanished or may not be read.
   *
   * @param options.isWalked A walk has just seen that it is a regular file.
   */
  async read(path: string, { isWalked = false } = {}): Promise<FileReading> {
    const reading = this.#open(path, isWalked);
    if (reading.format !== 'pickle-zip' && reading.format !== 'pickle-legacy') return reading;
    try {
      return { ...reading, ...describePickle(await inspectPickle(path)) };
    } catch (error) {
      return { ...reading, status: 'unreadable', problem: messageOf(error) };
    }
  }

  #open(path: string, isWalked: boolean): FileReading {
    try {
      const { file, stats } = openRegularFileSync(path, isWalked);
      try {
        return { ...this.#read(file, basename(path), stats.size), stat: fileStatOf(stats) };
      } finally {
        closeSync(file);
      }
    } catch (error) {
      return { status: 'unreadable', problem: messageOf(error) };
    }
  }

  #read(file: number, name: string, sizeBytes: number): ModelReading {
    const first = Math.min(this.#expectedBytes, sizeBytes);
    this.#fill(file, 0, first);
    const head = this.#buffer.subarray(0, Math.min(first, 64));
    const format = formatOf(head, name);
    try {
      switch (format) {
        case 'gguf':
          return describeGguf(readGgufHeader(new ByteSource(file, sizeBytes), name));
        case 'onnx':
          return describeOnnx(readOnnxMetadata(new ByteSource(file, sizeBytes), name));
        case 'pickle-zip':
        case 'pickle-legacy':
          return { status: 'ok', format };
        case 'safetensors':
          return this.#readSafetensors(file, name, sizeBytes, first);
      }
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      const problem = typeof error.details['problem'] === 'string' ? error.details['problem'] : error.message;
      return { status: /truncated|ends inside/.test(problem) ? 'incomplete' : 'invalid', format, problem };
    }
  }

  #readSafetensors(file: number, name: string, sizeBytes: number, alreadyRead: number): ModelReading {
    const length = headerLength(this.#buffer.subarray(0, Math.min(8, sizeBytes)), sizeBytes, name);
    const dataStart = 8 + length;
    if (dataStart > alreadyRead) this.#fill(file, alreadyRead, dataStart);
    // A little more than this one took: headers of one trainer differ by some bytes of metadata.
    this.#expectedBytes = Math.min(Math.max(FIRST_READ_BYTES, dataStart + 4096), 1 << 20);
    const json = this.#buffer.subarray(8, dataStart);
    const { digest, metadata, hasDuplicateNames } = this.#scanner.read(json, dataStart, sizeBytes, name);
    const told = readMetadataFacts(metadata);
    const facts = joinFacts(digest, told, (tensor) => readAlpha(file, dataStart, tensor));
    const warnings = hasDuplicateNames ? ['a tensor name occurs twice; the later one counts'] : [];
    return {
      status: 'ok',
      format: 'safetensors',
      headerBytes: length,
      facts: warnings.length === 0 ? facts : { ...facts, warnings: [...(facts.warnings ?? []), ...warnings] },
    };
  }

  /** Fills the buffer from `start` to `end`, both positions in the file. */
  #fill(file: number, start: number, end: number): void {
    if (end > this.#buffer.length) {
      const larger = Buffer.allocUnsafeSlow(end);
      this.#buffer.copy(larger, 0, 0, start);
      this.#buffer = larger;
    }
    let done = start;
    while (done < end) {
      const count = readSync(file, this.#buffer, done, end - done, done);
      if (count === 0) throw new Error('it became shorter while it was read');
      done += count;
    }
  }
}

/** The format that the first bytes tell; files that tell nothing are judged by the rules of their ending. */
function formatOf(head: Buffer, name: string): ModelFormat {
  const extension = extname(name).toLowerCase();
  if (head.length >= 4 && head.readUInt32LE(0) === ZIP_MAGIC) return 'pickle-zip';
  if (head.toString('latin1', 0, 4) === 'GGUF' || extension === '.gguf') return 'gguf';
  // The eighth byte of a length is never anything but zero in a real header.
  if (head.length >= 9 && head[8] === 0x7b && head[7] === 0 && head[6] === 0) return 'safetensors';
  if (extension === '.onnx') return 'onnx';
  if (head[0] === PICKLE_PROTOCOL && extension !== '.safetensors' && extension !== '.sft') return 'pickle-legacy';
  return 'safetensors';
}

/** The scale that a LoRA carries as a tensor of one number. */
function readAlpha(
  file: number,
  dataStart: number,
  { dtype, offset, sizeBytes }: NonNullable<TableFacts['alphaTensor']>,
): number | undefined {
  if (sizeBytes > 8) return undefined;
  const bytes = Buffer.alloc(8);
  if (readSync(file, bytes, 0, sizeBytes, dataStart + offset) !== sizeBytes) return undefined;
  switch (dtype) {
    case 'F32':
      return bytes.readFloatLE();
    case 'F64':
      return bytes.readDoubleLE();
    case 'BF16':
      return Buffer.concat([Buffer.alloc(2), bytes.subarray(0, 2)]).readFloatLE();
    case 'F16':
      return f16BitsToF32(bytes.readUInt16LE());
    case 'I64':
      return Number(bytes.readBigInt64LE());
    case 'I32':
      return bytes.readInt32LE();
    default:
      return undefined;
  }
}
