/** Door of store/: what Vision Bridge remembers between runs. */
import type { RootDatabase } from 'lmdb';
import type { Logger } from '../common/logger.js';
import { openEnvironment } from './environment.js';
import { FeatureStore } from './feature-store.js';
import { ModelIndexStore } from './model-index.js';
import { FileHashes } from './file-hashes.js';
import { Table } from './table.js';

export type { FeatureStore, FeatureStoreStats } from './feature-store.js';
export type { IndexedModel, ModelIndexStore } from './model-index.js';
export { PromptJournal } from './prompt-journal.js';
export type { Table } from './table.js';

export interface StoreOptions {
  /** A folder of ours; made if missing. */
  readonly directory: string;
  /** Bound of the feature store. */
  readonly maxFeatureBytes: number;
  readonly logger: Logger;
}

/** Owner of the environment; close it last. */
export class Store implements AsyncDisposable {
  readonly features: FeatureStore;
  readonly fileHashes: FileHashes;
  readonly #root: RootDatabase;

  constructor(root: RootDatabase, maxFeatureBytes: number) {
    this.#root = root;
    this.features = new FeatureStore(root, maxFeatureBytes);
    this.fileHashes = new FileHashes(root);
  }

  /** The index of model files, in the form of a version that its user raises when rows change. */
  modelIndex<Row, Hashes>(version: number): ModelIndexStore<Row, Hashes> {
    return new ModelIndexStore<Row, Hashes>(this.#root, version);
  }

  /** @param name Changes when the form of the values does. */
  table<Value>(name: string): Table<Value> {
    return new Table<Value>(this.#root, name);
  }

  /** Waits for writes that are under way. Closing twice is harmless. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#root.close();
  }
}

/** Opens the store of a data folder. */
export async function openStore(options: StoreOptions): Promise<Store> {
  return new Store(await openEnvironment(options.directory, options.logger), options.maxFeatureBytes);
}
