/**
 * How many pictures go into one run, by measurement.
 *
 * In fp32 on a CPU a batch of eight costs more per picture than eight runs; in int8, and for small models, it costs less.
 * Which it is depends on the machine, so sizes are tried, each from the last good one on, and the fastest is kept.
 */

/** Runs of a size before it is judged: the first one pays for memory that it touches for the first time. */
const TRIALS = 2;
/** A larger size must be better by this factor: it costs memory, and a cancellation waits for it. */
const WORTHWHILE = 0.97;

export class MicroBatch {
  /** Fewest milliseconds per picture, and runs, by size. */
  readonly #measured = new Map<number, { best: number; runs: number }>();
  #limit: number;

  /** @param largest Bound by memory. */
  constructor(largest: number) {
    this.#limit = largest;
  }

  /** Size of the next run, when so many pictures wait. */
  next(waiting: number): number {
    let best = 1;
    let bestMs = Infinity;
    for (let size = 1; size <= Math.min(waiting, this.#limit); size *= 2) {
      const known = this.#measured.get(size);
      if (known === undefined || known.runs < TRIALS) return size;
      if (known.best > bestMs * WORTHWHILE) break;
      best = size;
      bestMs = known.best;
    }
    return best;
  }

  record(size: number, ms: number): void {
    const known = this.#measured.get(size) ?? { best: Infinity, runs: 0 };
    this.#measured.set(size, { best: Math.min(known.best, ms / size), runs: known.runs + 1 });
  }

  /** A run of this size failed for want of memory, or for a reason that one picture may not have. */
  fail(size: number): void {
    this.#limit = Math.max(1, Math.min(this.#limit, Math.floor(size / 2)));
  }
}
