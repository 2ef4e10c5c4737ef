/**
 * Features by content: what was computed once is not computed again, in any process, before or after a restart.
 *
 * A key is a hash of everything that the value depends on; making it is the caller's. Bounded in bytes, least recently
 * used out first. Reads are synchronous and take microseconds; writes are one transaction each.
 */
import type { Database, RootDatabase } from 'lmdb';

interface Use {
  readonly sizeBytes: number;
  /** Milliseconds since the epoch of the last get or put. */
  readonly usedAt: number;
}

export interface FeatureStoreStats {
  readonly entries: number;
  readonly sizeBytes: number;
  readonly maxBytes: number;
  /** Of this process, since it opened the store. */
  readonly hits: number;
  readonly misses: number;
}

/** A use is noted at most this often per entry: a note is a write. */
const USE_RESOLUTION_MS = 60_000;

export class FeatureStore {
  readonly #root: RootDatabase;
  readonly #values: Database<Buffer, string>;
  readonly #uses: Database<Use, string>;
  /** `[usedAt, key]`, oldest first. */
  readonly #order: Database<true, [number, string]>;
  readonly #totals: Database<number, string>;
  readonly #maxBytes: number;
  readonly #now: () => number;
  #hits = 0;
  #misses = 0;

  constructor(root: RootDatabase, maxBytes: number, now: () => number = Date.now) {
    this.#root = root;
    this.#maxBytes = maxBytes;
    this.#now = now;
    this.#values = root.openDB({ name: 'features', encoding: 'binary' });
    this.#uses = root.openDB({ name: 'feature-uses' });
    this.#order = root.openDB({ name: 'feature-order' });
    this.#totals = root.openDB({ name: 'feature-totals' });
  }

  /** The value of a key, as a copy that the caller owns; undefined when it is not there. */
  get(key: string): Uint8Array | undefined {
    const value = this.#values.get(key);
    if (value === undefined) {
      this.#misses += 1;
      return undefined;
    }
    this.#hits += 1;
    this.#noteUse(key);
    return value;
  }

  /** Whether a key has a value. It counts as a use, for whoever asks means to read it soon, but as neither hit nor miss. */
  has(key: string): boolean {
    return this.#noteUse(key);
  }

  /** Keeps a value; makes room by dropping what was used least recently. A value larger than the bound is not kept. */
  async put(key: string, value: Uint8Array): Promise<void> {
    if (value.byteLength > this.#maxBytes) return;
    await this.#root.transaction(() => {
      this.#drop(key);
      const usedAt = this.#now();
      void this.#values.put(key, Buffer.from(value.buffer, value.byteOffset, value.byteLength));
      void this.#uses.put(key, { sizeBytes: value.byteLength, usedAt });
      void this.#order.put([usedAt, key], true);
      let total = this.#total() + value.byteLength;
      void this.#totals.put('bytes', total);
      for (const { key: oldest } of this.#order.getRange({})) {
        if (total <= this.#maxBytes) break;
        this.#drop(oldest[1]);
        total = this.#total();
      }
    });
  }

  async clear(): Promise<void> {
    await this.#root.transaction(() => {
      for (const database of [this.#values, this.#uses, this.#order, this.#totals]) database.clearSync();
    });
  }

  stats(): FeatureStoreStats {
    return {
      entries: this.#uses.getCount(),
      sizeBytes: this.#total(),
      maxBytes: this.#maxBytes,
      hits: this.#hits,
      misses: this.#misses,
    };
  }

  /** Whether there is a value to be used. */
  #noteUse(key: string): boolean {
    const use = this.#uses.get(key);
    if (use === undefined) return false;
    if (this.#now() - use.usedAt >= USE_RESOLUTION_MS) void this.#touch(key);
    return true;
  }

  #total(): number {
    return this.#totals.get('bytes') ?? 0;
  }

  async #touch(key: string): Promise<void> {
    await this.#root.transaction(() => {
      const use = this.#uses.get(key);
      if (use === undefined) return;
      const usedAt = this.#now();
      void this.#order.remove([use.usedAt, key]);
      void this.#order.put([usedAt, key], true);
      void this.#uses.put(key, { sizeBytes: use.sizeBytes, usedAt });
    });
  }

  /** Inside a transaction only. */
  #drop(key: string): void {
    const use = this.#uses.get(key);
    if (use === undefined) return;
    void this.#values.remove(key);
    void this.#uses.remove(key);
    void this.#order.remove([use.usedAt, key]);
    void this.#totals.put('bytes', this.#total() - use.sizeBytes);
  }
}
