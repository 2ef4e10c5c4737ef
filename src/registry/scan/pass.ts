/**
 * One scan of all roots: what it has found out so far, and what is still being written.
 *
 * While a thread walks a folder, files that it has come past are looked up in the store, and those that the store does
 * not know are read by other threads.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { BridgeError, messageOf } from '../../common/errors.js';
import type { IndexedModel, ModelIndexStore } from '../../store/index.js';
import { entriesOf, type ModelEntry, type ModelRoot } from '../entry.js';
import type { ModelHashes } from '../hashes.js';
import type { ModelRow } from '../row.js';
import type { ReadModel } from './thread.js';
import type { ScanThreads } from './threads.js';
import type { WalkedFiles, WalkEnd } from './walk.js';

export interface PassProgress {
  readonly files: number;
  /** Files whose facts are known. */
  readonly known: number;
  readonly readBytes: number;
}

export interface FoundRoot extends WalkEnd {
  /** Files below the root, whatever number of folder names it has. */
  readonly files: number;
  /** Per folder name, one after the other. */
  readonly entries: ModelEntry[];
  /** Resolves when `entries` have the rows of files that had to be read. */
  readonly complete: () => Promise<void>;
}

/** Small enough that threads finish together, large enough that messages are few. */
const FILES_PER_BATCH = 48;
/** Batches on their way to the store at once. */
const MAX_WRITES = 8;
const REPORT_MS = 200;

export class ScanPass {
  readonly #index: ModelIndexStore<ModelRow, ModelHashes>;
  readonly #threads: ScanThreads;
  readonly #onProgress: (progress: PassProgress) => void;
  /** Files that are being read, or were: one with several names is read once. */
  readonly #rows = new Map<string, Promise<ModelRow | undefined>>();
  readonly #settle = new Map<string, (row: ModelRow | undefined) => void>();
  readonly #living = new Set<string>();
  readonly #writes = new Set<Promise<void>>();
  #progress = { files: 0, known: 0, readBytes: 0 };
  #reported = 0;
  readFiles = 0;

  constructor(
    index: ModelIndexStore<ModelRow, ModelHashes>,
    threads: ScanThreads,
    onProgress: (progress: PassProgress) => void,
  ) {
    this.#index = index;
    this.#threads = threads;
    this.#onProgress = onProgress;
  }

  get progress(): PassProgress {
    return this.#progress;
  }

  /**
   * Walks a folder, and begins to read what is new in it.
   *
   * @param names What its files are called; several types may share one folder.
   * @throws {BridgeError} `MODEL_UNREADABLE` when the folder does not answer; `CANCELLED` when the registry is closed.
   */
  async walk(path: string, names: readonly ModelRoot[]): Promise<FoundRoot> {
    const found = names.map((root) => ({ root, entries: [] as ModelEntry[] }));
    const batches: Promise<void>[] = [];
    let files = 0;
    let unread: ModelEntry[] = [];
    const read = (): void => {
      const batch = this.#readBatch(path, unread);
      // Failures are told when the walk has ended, and must not count as unheard until then.
      batch.catch(() => undefined);
      batches.push(batch);
      unread = [];
    };
    const take = (part: WalkedFiles): void => {
      files += part.names.length;
      this.#progress.files += part.names.length * names.length;
      for (const { root, entries } of found) {
        for (const entry of entriesOf(root, part, (key) => this.#index.row(key))) {
          entries.push(entry);
          this.#living.add(entry.key);
          if (entry.row !== undefined) this.#progress.known += 1;
          else if (this.#claim(entry.key)) unread.push(entry);
          if (unread.length === FILES_PER_BATCH) read();
        }
      }
    };
    // Parts come in faster than they are looked up; others get their turn in between.
    let taken = Promise.resolve();
    const takeNext = (part: WalkedFiles): void => {
      taken = taken.then(async () => {
        await nextTurn();
        take(part);
      });
      taken.catch(() => undefined);
    };
    try {
      const work = { type: 'walk', root: path, excluded: names[0]?.excluded ?? [] } as const;
      const answer = await this.#threads.run(path, work, takeNext);
      if (answer.type !== 'walked') throw new BridgeError('INTERNAL', 'The scan answered out of turn.');
      await taken;
      if (unread.length > 0) read();
      const entries = found.flatMap((each) => each.entries);
      return { ...answer.end, files, entries, complete: () => this.#complete(entries, batches) };
    } catch (error) {
      await Promise.allSettled([taken, ...batches]);
      throw error;
    }
  }

  /** Files of a folder that cannot be walked now stay in the store. */
  keep(entries: readonly ModelEntry[]): void {
    for (const { key } of entries) this.#living.add(key);
  }

  /** Waits until everything is safe. */
  async finish(): Promise<void> {
    await Promise.all(this.#writes);
    await this.#index.prune(this.#living);
  }

  async #complete(entries: ModelEntry[], batches: readonly Promise<void>[]): Promise<void> {
    for (const [i, entry] of entries.entries()) {
      if (entry.row !== undefined) continue;
      const row = await this.#rows.get(entry.key);
      if (row !== undefined) entries[i] = { ...entry, row };
    }
    await Promise.all(batches);
  }

  /** Hands a batch to the store; waits while too many are on their way, for they are held in memory. */
  async #write(models: readonly IndexedModel<ModelRow>[]): Promise<void> {
    const write = this.#index.put(models).finally(() => this.#writes.delete(write));
    this.#writes.add(write);
    while (this.#writes.size > MAX_WRITES) await Promise.race(this.#writes);
  }

  /** Whether nobody reads this file yet. */
  #claim(key: string): boolean {
    if (this.#rows.has(key)) return false;
    this.#rows.set(
      key,
      new Promise((resolve) => {
        this.#settle.set(key, resolve);
      }),
    );
    return true;
  }

  async #readBatch(root: string, entries: readonly ModelEntry[]): Promise<void> {
    try {
      const answer = await this.#threads.run(root, { type: 'read', paths: entries.map(({ path }) => path) });
      if (answer.type !== 'read') throw new BridgeError('INTERNAL', 'The scan answered out of turn.');
      const models = JSON.parse(answer.models) as ReadModel[];
      const kept: IndexedModel<ModelRow>[] = [];
      models.forEach(({ key, row }, i) => {
        const entry = entries[i];
        if (entry === undefined) return;
        const details = answer.details.subarray(answer.ends[i - 1] ?? 0, answer.ends[i]);
        // A file that changed since the walk is kept under what it is now; the next scan finds it there.
        if (key !== undefined) kept.push({ key, row, details });
        this.#settle.get(entry.key)?.(row);
        this.#progress.readBytes += entry.sizeBytes;
      });
      this.readFiles += entries.length;
      this.#progress.known += entries.length;
      await this.#write(kept);
    } catch (error) {
      if (error instanceof BridgeError && error.code === 'CANCELLED') throw error;
      // One file may have cost the thread its life, or hang: it fails alone.
      if (entries.length > 1) for (const entry of entries) await this.#readBatch(root, [entry]);
      else for (const { key } of entries) this.#settle.get(key)?.({ status: 'unreadable', problem: messageOf(error) });
    } finally {
      for (const { key } of entries) this.#settle.get(key)?.(undefined);
      const now = performance.now();
      if (now - this.#reported > REPORT_MS) {
        this.#reported = now;
        this.#onProgress({ ...this.#progress });
      }
    }
  }
}
