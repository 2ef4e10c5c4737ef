/**
 * How many pictures go into one run, by measurement.
 *
 * In int8, and for small models, a picture of a batch costs less than a picture alone; in fp32 mostly not. Which it is
 * depends on the machine, and may show only in batches of eight, so sizes are tried as long as they are not clearly worse.
 * A measurement is off by several percent where others use the machine too, so every size is judged by its last few runs.
 */

/** Runs of a size before it is judged: the first one pays for memory that it touches for the first time. */
const TRIALS = 2;
/** Of as many runs of each size the best one counts: the more there are, the better it looks. */
const JUDGED_RUNS = 4;
/** A larger size is taken if it is this close to the best. What it costs beside time, memory and run length bound. */
const AS_GOOD = 1.02;
/** Beyond a size that is worse by this factor, none is tried. */
const HOPELESS = 1.1;
/** A run that is expected to take longer is not tried: cancellations wait for its end. */
const MAX_RUN_MS = 4000;

export class MicroBatch {
  /** Milliseconds per picture of the last runs, by size. */
  readonly #measured = new Map<number, number[]>();
  #limit: number;

  /** @param largest Bound by memory. */
  constructor(largest: number) {
    this.#limit = largest;
  }

  /** Size of the next run, when so many pictures wait. Fewer than the best size go together. */
  next(waiting: number): number {
    const known: { readonly size: number; readonly ms: number }[] = [];
    let bestMs = Infinity;
    for (let size = 1; size <= this.#limit; size *= 2) {
      const runs = this.#measured.get(size) ?? [];
      if (runs.length < TRIALS) {
        if (size === 1 || (size <= waiting && bestMs * size <= MAX_RUN_MS)) return size;
        break;
      }
      const ms = Math.min(...runs);
      if (ms > bestMs * HOPELESS) break;
      known.push({ size, ms });
      bestMs = Math.min(bestMs, ms);
    }
    return Math.min(waiting, known.findLast(({ ms }) => ms <= bestMs * AS_GOOD)?.size ?? 1);
  }

  record(size: number, ms: number): void {
    this.#measured.set(size, [...(this.#measured.get(size) ?? []), ms / size].slice(-JUDGED_RUNS));
  }

  /** A run of this size failed for want of memory, or for a reason that one picture may not have. */
  fail(size: number): void {
    this.#limit = Math.max(1, Math.min(this.#limit, Math.floor(size / 2)));
  }
}
