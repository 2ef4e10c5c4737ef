/**
 * What is known of model files, by the identity of the file: device, inode, size and modification time.
 *
 * A renamed or linked file keeps its identity, and so its entry; a changed one gets a new one. Every batch is one
 * transaction: a scan that is killed leaves what it had, and the next one goes on from there. Several processes share it.
 */
import { asBinary, type Database, type RootDatabase } from 'lmdb';

export interface IndexedModel<Row> {
  readonly key: string;
  /** What queries need; kept small, for all of them are read at start. */
  readonly row: Row;
  /** Everything else, as JSON in UTF-8. */
  readonly details: Uint8Array;
}

/** Entries of files that are gone are dropped when they are so many more than the living. */
const MAX_DEAD_FACTOR = 4;
const MIN_DEAD = 50_000;

export class ModelIndexStore<Row = unknown, Hashes = unknown> {
  readonly #root: RootDatabase;
  readonly #rows: Database<Row, string>;
  readonly #details: Database<string, string>;
  readonly #hashes: Database<Hashes, string>;

  /** @param version Of the form of rows and details: another one begins anew. */
  constructor(root: RootDatabase, version: number) {
    this.#root = root;
    this.#rows = root.openDB({ name: `model-rows-${version}`, sharedStructuresKey: Symbol.for('structures') });
    this.#details = root.openDB({ name: `model-details-${version}`, encoding: 'string', compression: true });
    this.#hashes = root.openDB({ name: 'model-hashes' });
  }

  row(key: string): Row | undefined {
    return this.#rows.get(key);
  }

  details(key: string): string | undefined {
    return this.#details.get(key);
  }

  hashes(key: string): Hashes | undefined {
    return this.#hashes.get(key);
  }

  /** Resolves when the batch is safe. */
  async put(models: readonly IndexedModel<Row>[]): Promise<void> {
    await this.#root.transaction(() => {
      for (const { key, row, details } of models) {
        void this.#rows.put(key, row);
        // Strings are kept as UTF-8, which these bytes are.
        void this.#details.put(key, asBinary(details) as unknown as string);
      }
    });
  }

  async putHashes(key: string, hashes: Hashes): Promise<void> {
    await this.#hashes.put(key, hashes);
  }

  /** Drops entries of files that are not among the living, if there are many. Other processes may know other folders. */
  async prune(living: ReadonlySet<string>): Promise<void> {
    if (this.#rows.getCount() < MIN_DEAD + living.size * MAX_DEAD_FACTOR) return;
    await this.#root.transaction(() => {
      for (const key of this.#rows.getKeys({})) {
        if (living.has(key)) continue;
        void this.#rows.remove(key);
        void this.#details.remove(key);
      }
    });
  }
}
