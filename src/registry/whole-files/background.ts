/**
 * Hashes by and by: one file at a time, at the lowest priority, while nobody wants anything.
 *
 * What is hashed stays hashed; a stop costs at most the file that is under way. As soon as there is work, the reading is
 * held where it is, and goes on when it has been quiet for a while.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { BridgeError, messageOf } from '../../common/errors.js';
import type { Logger } from '../../common/logger.js';
import type { ModelEntry } from '../entry.js';
import type { ModelContents } from './contents.js';
import type { FileWorkers } from './workers.js';

export interface BackgroundHashingOptions {
  readonly contents: ModelContents;
  readonly workers: FileWorkers;
  readonly files: () => readonly ModelEntry[];
  /** Whether anybody is being served, or the index is being made. */
  readonly isBusy: () => boolean;
  readonly logger: Logger;
  /** How long it has to be quiet. */
  readonly quietMs?: number;
  readonly checkMs?: number;
}

const QUIET_MS = 5000;
const CHECK_MS = 250;

export class BackgroundHashing implements AsyncDisposable {
  readonly #options: Required<BackgroundHashingOptions>;
  readonly #stop = new AbortController();
  /** Files that have their hashes, and those that cannot be read: neither is tried again. */
  readonly #done = new Set<string>();
  #running: Promise<void> | undefined;
  #busySince = 0;
  #hashed = 0;

  constructor(options: BackgroundHashingOptions) {
    this.#options = { quietMs: QUIET_MS, checkMs: CHECK_MS, ...options };
  }

  /** Files that were hashed since it was started. */
  get hashed(): number {
    return this.#hashed;
  }

  /** Begins, or does nothing when it has begun. Runs until it is disposed. */
  start(): void {
    if (this.#stop.signal.aborted) return;
    this.#running ??= this.#run().catch((error: unknown) => {
      if (!this.#stop.signal.aborted) this.#options.logger.warn({ reason: messageOf(error) }, 'hashing stopped');
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    const { contents, workers, checkMs } = this.#options;
    const watch = setInterval(() => {
      workers.hold(!this.#isQuiet());
    }, checkMs);
    watch.unref();
    try {
      while (!signal.aborted) {
        const next = this.#isQuiet() ? await this.#next() : undefined;
        if (next === undefined) {
          await sleep(checkMs, undefined, { signal, ref: false });
          continue;
        }
        try {
          await contents.hash(next, { signal, isLow: true });
          this.#hashed += 1;
        } catch (error) {
          if (error instanceof BridgeError && error.code === 'CANCELLED') throw error;
          this.#done.add(next.key);
          this.#options.logger.debug({ path: next.path, reason: messageOf(error) }, 'a file was not hashed');
        }
      }
    } finally {
      clearInterval(watch);
    }
  }

  #isQuiet(): boolean {
    const now = performance.now();
    if (this.#options.isBusy() || this.#options.workers.isBusy) this.#busySince = now;
    return now - this.#busySince >= this.#options.quietMs;
  }

  /** The smallest file without hashes: so most files have theirs soon. */
  async #next(): Promise<ModelEntry | undefined> {
    const { contents, files } = this.#options;
    let best: ModelEntry | undefined;
    for (const entry of files()) {
      if (entry.row?.status !== 'ok' || this.#done.has(entry.key)) continue;
      if (best !== undefined && best.sizeBytes <= entry.sizeBytes) continue;
      if ((await contents.knownHashes(entry)) === undefined) best = entry;
      else this.#done.add(entry.key);
    }
    return best;
  }
}
