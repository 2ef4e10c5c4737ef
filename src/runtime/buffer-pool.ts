/**
 * Memory for large answers that is used again. Touching memory for the first time takes longer than all copies of an answer
 * together: features of one picture of a CLIP-ViT-H are 2.6 MB, 640 pages.
 */

/** Free memory that is kept at most. */
const MAX_FREE_BYTES = 33_554_432;
/** A buffer serves a request of at least this share of it. */
const MIN_USE = 0.5;

export class BufferPool {
  /** The least recently used first. */
  #free: ArrayBuffer[] = [];

  /** Buffers of one answer. */
  lease(): BufferLease {
    return new BufferLease(
      (sizeBytes) => this.#take(sizeBytes),
      (buffers) => {
        this.#give(buffers);
      },
    );
  }

  #take(sizeBytes: number): ArrayBuffer {
    const at = this.#free.findLastIndex(
      ({ byteLength }) => byteLength >= sizeBytes && byteLength * MIN_USE <= sizeBytes,
    );
    return at === -1 ? new ArrayBuffer(sizeBytes) : (this.#free.splice(at, 1)[0] ?? new ArrayBuffer(sizeBytes));
  }

  #give(buffers: readonly ArrayBuffer[]): void {
    this.#free.push(...buffers);
    let total = this.#free.reduce((sum, { byteLength }) => sum + byteLength, 0);
    while (total > MAX_FREE_BYTES) total -= this.#free.shift()?.byteLength ?? total;
  }
}

/** Memory of one answer, which is the holder's until it is released. */
export class BufferLease {
  readonly #take: (sizeBytes: number) => ArrayBuffer;
  readonly #give: (buffers: readonly ArrayBuffer[]) => void;
  readonly #buffers: ArrayBuffer[] = [];
  readonly #uses: Promise<void>[] = [];
  #isReleased = false;

  constructor(take: (sizeBytes: number) => ArrayBuffer, give: (buffers: readonly ArrayBuffer[]) => void) {
    this.#take = take;
    this.#give = give;
  }

  /** At least so many bytes, with whatever was in them. */
  take(sizeBytes: number): ArrayBuffer {
    if (this.#isReleased) return new ArrayBuffer(sizeBytes);
    const buffer = this.#take(sizeBytes);
    this.#buffers.push(buffer);
    return buffer;
  }

  /** Does what needs the memory and may end after the release; nothing if that has come already. */
  async use(work: () => Promise<void>): Promise<void> {
    if (this.#isReleased) return;
    const use = work();
    this.#uses.push(use);
    await use;
  }

  /** Nobody looks at the memory any more, but for uses that have begun. */
  async release(): Promise<void> {
    this.#isReleased = true;
    await Promise.allSettled(this.#uses);
    this.#give(this.#buffers.splice(0));
  }
}
