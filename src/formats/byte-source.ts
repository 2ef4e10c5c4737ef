/** Positional reads of an open file, for readers that look here and there. Synchronous: they run in worker threads. */
import { readSync } from 'node:fs';

/** Reads fewer bytes than were asked for. The reader's own error says what that means for its format. */
export class EndOfFile extends Error {}

/** What is read at once: headers are read in small steps, the system in larger ones. */
const WINDOW_BYTES = 65_536;

export class ByteSource {
  readonly sizeBytes: number;
  readonly #file: number;
  #window = Buffer.alloc(0);
  #windowStart = 0;

  /** @param file An open descriptor; stays the caller's. */
  constructor(file: number, sizeBytes: number) {
    this.#file = file;
    this.sizeBytes = sizeBytes;
  }

  /** Bytes that stay valid until the next read. @throws {EndOfFile} */
  read(position: number, length: number): Buffer {
    if (length < 0 || position + length > this.sizeBytes) throw new EndOfFile();
    const from = position - this.#windowStart;
    if (from >= 0 && from + length <= this.#window.length) return this.#window.subarray(from, from + length);
    const window = Buffer.allocUnsafe(Math.min(Math.max(length, WINDOW_BYTES), this.sizeBytes - position));
    let done = 0;
    while (done < window.length) {
      const count = readSync(this.#file, window, done, window.length - done, position + done);
      if (count === 0) break;
      done += count;
    }
    if (done < length) throw new EndOfFile();
    this.#window = window.subarray(0, done);
    this.#windowStart = position;
    return this.#window.subarray(0, length);
  }
}
