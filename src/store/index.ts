/** Door of store/: what Vision Bridge remembers between runs. */
import type { RootDatabase } from 'lmdb';
import type { Logger } from '../common/logger.js';
import { openEnvironment } from './environment.js';
import { FeatureStore } from './feature-store.js';

export type { FeatureStore, FeatureStoreStats } from './feature-store.js';
export { PromptJournal } from './prompt-journal.js';

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
  readonly #root: RootDatabase;

  constructor(root: RootDatabase, maxFeatureBytes: number) {
    this.#root = root;
    this.features = new FeatureStore(root, maxFeatureBytes);
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
