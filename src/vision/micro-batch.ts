/**
 * How many pictures go into one run, by measurement.
 *
 * In int8, and for small models, a picture of a batch costs less than a picture alone; in fp32 mostly not. Which it is
 * depends on the machine, and may show only in batches of eight, so sizes are tried as long as they are not worse.
 */

/** Runs of a size before it is judged: the first one pays for memory that it touches for the first time. */
const TRIALS = 2;
/** A larger size must be better by this factor: it costs memory, and a cancellation waits for it. */
const WORTHWHILE = 0.97;
/** Beyond a size that is worse by this factor, none is tried. */
const HOPELESS = 1.05;
/** A run that is expected to take longer is not tried: cancellations wait for its end. */
const MAX_RUN_MS = 4000;

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
    let chosen = 1;
    let chosenMs = Infinity;
    let bestMs = Infinity;
    for (let size = 1; size <= Math.min(waiting, this.#limit); size *= 2) {
      const known = this.#measured.get(size);
      if (known === undefined || known.runs < TRIALS) return size === 1 || bestMs * size <= MAX_RUN_MS ? size : chosen;
      if (known.best > bestMs * HOPELESS) break;
      bestMs = Math.min(bestMs, known.best);
      if (known.best > chosenMs * WORTHWHILE) continue;
      chosen = size;
      chosenMs = known.best;
    }
    return chosen;
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
