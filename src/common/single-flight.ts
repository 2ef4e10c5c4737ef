/** Concurrent requests for one key share one promise; it is dropped when it settles. */
export class SingleFlight<K, V> {
  readonly #running = new Map<K, Promise<V>>();

  run(key: K, work: () => Promise<V>): Promise<V> {
    const running = this.#running.get(key);
    if (running !== undefined) return running;
    const promise = work().finally(() => {
      this.#running.delete(key);
    });
    this.#running.set(key, promise);
    return promise;
  }
}
