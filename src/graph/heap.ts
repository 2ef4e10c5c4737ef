/**
 * A binary heap: the least first, in logarithmic time.
 *
 * Keeps its items in the places where Python's `heapq` has them: clients of ComfyUI see that order in `/queue`.
 */
export class Heap<T> {
  readonly #items: T[] = [];
  readonly #compare: (a: T, b: T) => number;

  /** @param compare Negative when `a` comes before `b`. */
  constructor(compare: (a: T, b: T) => number) {
    this.#compare = compare;
  }

  /** As they lie in the heap: the least first, the others in no order that means anything. */
  get items(): readonly T[] {
    return this.#items;
  }

  get size(): number {
    return this.#items.length;
  }

  clear(): void {
    this.#items.length = 0;
  }

  /** Takes out the first item, as they lie, that fits; in linear time. */
  remove(fits: (item: T) => boolean): T | undefined {
    const at = this.#items.findIndex(fits);
    if (at === -1) return undefined;
    const [removed] = this.#items.splice(at, 1);
    for (let i = (this.#items.length >> 1) - 1; i >= 0; i -= 1) this.#sink(i);
    return removed;
  }

  push(item: T): void {
    const items = this.#items;
    let at = items.length;
    items.push(item);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#isBefore(item, items[parent])) break;
      items[at] = items[parent] as T;
      at = parent;
    }
    items[at] = item;
  }

  pop(): T | undefined {
    const items = this.#items;
    const first = items[0];
    const last = items.pop();
    if (items.length === 0 || last === undefined) return first;
    items[0] = last;
    this.#sink(0);
    return first;
  }

  /** Moves an item down until both of its children come after it. */
  #sink(from: number): void {
    const items = this.#items;
    const item = items[from] as T;
    let at = from;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && this.#isBefore(items[child + 1] as T, items[child])) child += 1;
      if (!this.#isBefore(items[child] as T, item)) break;
      items[at] = items[child] as T;
      at = child;
    }
    items[at] = item;
  }

  #isBefore(a: T, b: T | undefined): boolean {
    return b === undefined || this.#compare(a, b) < 0;
  }
}
