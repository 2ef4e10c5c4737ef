import { describe, expect, it } from 'vitest';
import { MicroBatch } from '../../../src/vision/micro-batch.js';

/** Sizes chosen for so many runs, on a machine where a run of a size takes this long. */
function play(msOfRun: (size: number) => number, { waiting = 64, runs = 20, largest = 64 } = {}): number[] {
  const sizes = new MicroBatch(largest);
  return Array.from({ length: runs }, () => {
    const size = sizes.next(waiting);
    sizes.record(size, msOfRun(size));
    return size;
  });
}

describe('MicroBatch', () => {
  it('stays with one picture where batches are slower', () => {
    const sizes = play((size) => 100 * size ** 1.2);
    expect(sizes.slice(0, 4)).toEqual([1, 1, 2, 2]);
    expect(new Set(sizes.slice(4))).toEqual(new Set([1]));
  });

  it('takes the largest of those that are as fast, which are all', () => {
    const sizes = play((size) => 10 * size);
    expect(new Set(sizes)).toEqual(new Set([1, 2, 4, 8, 16, 32, 64]));
    expect(sizes.at(-1)).toBe(64);
  });

  it('goes on to larger ones where they are faster, also where that shows late', () => {
    expect(play((size) => 10 + size).at(-1)).toBe(64);
    expect(play((size) => (size <= 8 ? 10 + size : 10 * size)).at(-1)).toBe(8);
    expect(play((size) => size * (size < 8 ? 450 : 380)).at(-1)).toBe(8);
  });

  it('tries none that cancellations would wait for', () => {
    const sizes = play((size) => 1100 * size);
    expect(Math.max(...sizes)).toBe(2);
    expect(play((size) => 5000 * size).every((size) => size === 1)).toBe(true);
  });

  it('takes no more than wait, and no more than memory allows', () => {
    expect(Math.max(...play((size) => 10 + size, { waiting: 5 }))).toBe(4);
    expect(Math.max(...play((size) => 10 + size, { largest: 16 }))).toBe(16);
  });

  it('is not misled by the first run of a size, which pays for new memory', () => {
    const seen = new Set<number>();
    const sizes = play((size) => {
      const isFirst = !seen.has(size);
      seen.add(size);
      return 100 * size ** 1.05 * (isFirst ? 3 : 1);
    });
    expect(sizes.at(-1)).toBe(1);
  });

  it('is not kept from a size of eight that is faster by runs of two and four that others made slower', () => {
    const factor = new Map([
      [2, 1.06],
      [4, 1.04],
      [8, 0.93],
    ]);
    expect(play((size) => 430 * size * (factor.get(size) ?? 1), { waiting: 8, runs: 12 }).at(-1)).toBe(8);
  });

  it('judges a size by its last runs: one that was fast once does not count for ever', () => {
    let runs = 0;
    const sizes = play(
      (size) => {
        runs += 1;
        if (size === 1) return runs === 1 ? 80 : 100;
        return 90 * size;
      },
      { waiting: 2, runs: 12 },
    );
    expect(sizes.slice(0, 4)).toEqual([1, 1, 2, 2]);
    expect(sizes.at(-1)).toBe(2);
  });

  it('runs together what is left of a batch, or what is fewer than the best size', () => {
    const sizes = new MicroBatch(8);
    for (let i = 0; i < 8; i += 1) {
      const size = sizes.next(8);
      sizes.record(size, 10 + size);
    }
    expect([1, 2, 3, 7, 8, 9, 64].map((waiting) => sizes.next(waiting))).toEqual([1, 2, 3, 7, 8, 8, 8]);
  });

  it('tries a size that failed no more', () => {
    const sizes = new MicroBatch(64);
    for (let i = 0; i < 4; i += 1) sizes.record(sizes.next(64), 1);
    expect(sizes.next(64)).toBe(4);
    sizes.fail(4);
    expect(sizes.next(64)).toBe(2);
    sizes.fail(1);
    expect(sizes.next(64)).toBe(1);
  });
});
