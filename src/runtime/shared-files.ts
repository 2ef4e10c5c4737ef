/**
 * Tensors between two processes, past the channel: through files that have no name.
 *
 * The channel of a child process copies a value four times and sends it in small pieces; features of a large encoder take
 * 30 to 60 ms that way. A file in memory takes two copies and 3 ms. There is one for each direction, made and at once
 * unlinked by the parent and inherited by the child, so that nothing is left behind whatever becomes of either. What does
 * not fit, or where there are no such files, goes by the channel.
 */
import { accessSync, closeSync, constants, ftruncateSync, openSync, readSync, unlinkSync, writeSync } from 'node:fs';
import { randomUUID } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Smaller arrays are no faster by a file. */
const MIN_BYTES = 65_536;
/** What may lie in a file at once. */
const MAX_FILE_BYTES = 268_435_456;
/** What an empty file keeps of its memory, for the next answers; the rest goes back to the system. */
const KEPT_BYTES = 33_554_432;
/** Numbers under which the child inherits the files; 0 to 2 are the terminal's, 3 is the channel's. */
const TO_CHILD_FD = 4;
const TO_PARENT_FD = 5;
/** Tells the child that it has them. */
export const SHARED_FILES_ARGUMENT = '--shared-files';

const ARRAYS = { Uint8Array, Uint16Array, Float32Array } as const;
type ArrayName = keyof typeof ARRAYS;

/** Stands in a message for an array. */
interface Placed {
  readonly sharedArray: ArrayName;
  readonly offset: number;
  readonly sizeBytes: number;
}

/** One side's view: a file that it writes, and one that it reads. */
export class SharedFiles {
  readonly #written: number;
  readonly #read: number;
  /** What the other side may still have to read, by position. */
  #blocks: { readonly owner: number; readonly offset: number; readonly end: number }[] = [];

  /** How far the written file may reach. */
  #fileBytes = 0;

  constructor(written: number, read: number) {
    this.#written = written;
    this.#read = read;
  }

  /**
   * The value with its large arrays placed in the file. They stay there until their owner's are freed.
   *
   * @param owner Number of the call that they belong to.
   */
  place(owner: number, value: unknown): unknown {
    if (ArrayBuffer.isView(value)) return this.#placeArray(owner, value);
    return mapEntries(value, (entry) => this.place(owner, entry));
  }

  /**
   * The value with the arrays that the other side placed; they are the caller's own.
   *
   * @param allocate Memory for them, of which they take the beginning.
   */
  take(value: unknown, allocate = (sizeBytes: number): ArrayBuffer => new ArrayBuffer(sizeBytes)): unknown {
    if (isPlaced(value)) {
      const { sizeBytes, sharedArray } = value;
      const array = new ARRAYS[sharedArray](allocate(sizeBytes), 0, sizeBytes / ARRAYS[sharedArray].BYTES_PER_ELEMENT);
      const bytes = new Uint8Array(array.buffer, 0, sizeBytes);
      for (let done = 0; done < bytes.length;) {
        const count = readSync(this.#read, bytes, done, bytes.length - done, value.offset + done);
        if (count === 0) throw new RangeError('the other process placed less than it said');
        done += count;
      }
      return array;
    }
    return mapEntries(value, (entry) => this.take(entry, allocate));
  }

  /** Makes room: the other side has taken what this call placed, or never will. */
  free(owner: number): void {
    this.#blocks = this.#blocks.filter((block) => block.owner !== owner);
    if (this.#blocks.length > 0 || this.#fileBytes <= KEPT_BYTES) return;
    ftruncateSync(this.#written, KEPT_BYTES);
    this.#fileBytes = KEPT_BYTES;
  }

  #placeArray(owner: number, array: ArrayBufferView): unknown {
    const name = (Object.keys(ARRAYS) as ArrayName[]).find((candidate) => array instanceof ARRAYS[candidate]);
    if (name === undefined || array.byteLength < MIN_BYTES) return array;
    const offset = this.#findRoom(array.byteLength);
    if (offset === undefined) return array;
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    this.#fileBytes = Math.max(this.#fileBytes, offset + bytes.length);
    try {
      for (let done = 0; done < bytes.length;) {
        done += writeSync(this.#written, bytes, done, bytes.length - done, offset + done);
      }
    } catch {
      return array; // the memory that such files may take is full
    }
    this.#blocks.push({ owner, offset, end: offset + bytes.length });
    this.#blocks.sort((a, b) => a.offset - b.offset);
    return { sharedArray: name, offset, sizeBytes: bytes.length } satisfies Placed;
  }

  /** The first gap that is large enough. */
  #findRoom(sizeBytes: number): number | undefined {
    let offset = 0;
    for (const block of this.#blocks) {
      if (block.offset - offset >= sizeBytes) break;
      offset = block.end;
    }
    return offset + sizeBytes <= MAX_FILE_BYTES ? offset : undefined;
  }
}

/** The parent's files for a child that is about to start; undefined where the system has no files without a name. */
export function createSharedFiles():
  { files: SharedFiles; inherited: readonly number[]; close: () => void } | undefined {
  if (process.platform === 'win32') return undefined;
  const opened: number[] = [];
  try {
    const folder = memoryFolder();
    for (let i = 0; i < 2; i += 1) {
      const path = join(folder, `vision-bridge-${randomUUID()}`);
      opened.push(openSync(path, 'wx+', 0o600));
      unlinkSync(path);
    }
    const [toChild = -1, toParent = -1] = opened;
    const close = (): void => {
      opened.forEach(closeSync);
    };
    return { files: new SharedFiles(toChild, toParent), inherited: opened, close };
  } catch {
    opened.forEach(closeSync);
    return undefined;
  }
}

/** The child's side of the files that it inherited. */
export function inheritedSharedFiles(): SharedFiles | undefined {
  return process.argv.includes(SHARED_FILES_ARGUMENT) ? new SharedFiles(TO_PARENT_FD, TO_CHILD_FD) : undefined;
}

/** Memory where Linux offers it as a folder; elsewhere files that are short-lived enough to stay in the page cache. */
function memoryFolder(): string {
  try {
    accessSync('/dev/shm', constants.W_OK);
    return '/dev/shm';
  } catch {
    return tmpdir();
  }
}

function isPlaced(value: unknown): value is Placed {
  return typeof value === 'object' && value !== null && 'sharedArray' in value;
}

/** Lists and plain objects with every entry replaced; anything else as it is. */
function mapEntries(value: unknown, replace: (entry: unknown) => unknown): unknown {
  if (Array.isArray(value)) return value.map(replace);
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value;
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, replace(entry)]));
}
