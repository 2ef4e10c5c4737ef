/** Values by name, for whatever is small and found out once: what they are is their user's business. */
import type { Database, RootDatabase } from 'lmdb';

export class Table<Value> {
  readonly #root: RootDatabase;
  readonly #values: Database<Value, string>;

  constructor(root: RootDatabase, name: string) {
    this.#root = root;
    this.#values = root.openDB({ name });
  }

  get count(): number {
    return this.#values.getCount();
  }

  get(key: string): Value | undefined {
    return this.#values.get(key);
  }

  entries(): Iterable<{ readonly key: string; readonly value: Value }> {
    return this.#values.getRange({});
  }

  /** Resolves when all of them are safe. */
  async put(entries: Iterable<readonly [key: string, value: Value]>): Promise<void> {
    await this.#root.transaction(() => {
      for (const [key, value] of entries) void this.#values.put(key, value);
    });
  }

  async remove(keys: Iterable<string>): Promise<void> {
    await this.#root.transaction(() => {
      for (const key of keys) void this.#values.remove(key);
    });
  }
}
