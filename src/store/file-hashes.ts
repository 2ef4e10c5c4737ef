/** SHA-256 of files, by the state that they were in: a hash is found once for every state of a file. */
import type { Database, RootDatabase } from 'lmdb';

export class FileHashes {
  readonly #hashes: Database<string, string>;

  constructor(root: RootDatabase) {
    this.#hashes = root.openDB({ name: 'file-hashes' });
  }

  /** @param stamp Names the state of the file (or of several that belong together). */
  get(stamp: string): string | undefined {
    return this.#hashes.get(stamp);
  }

  async put(stamp: string, sha256: string): Promise<void> {
    await this.#hashes.put(stamp, sha256);
  }
}
