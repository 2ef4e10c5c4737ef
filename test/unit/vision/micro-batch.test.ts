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
    const sizes = play((size) => 100 * size ** 1.1);
    expect(sizes.slice(0, 4)).toEqual([1, 1, 2, 2]);
    expect(new Set(sizes.slice(4))).toEqual(new Set([1]));
  });

  it('stays with one where they are as fast, and has tried them all', () => {
    const sizes = play((size) => 10 * size);
    expect(new Set(sizes)).toEqual(new Set([1, 2, 4, 8, 16, 32, 64]));
    expect(sizes.at(-1)).toBe(1);
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

  it('is not misled by the first run, which pays for new memory', () => {
    let runs = 0;
    const sizes = play((size) => {
      runs += 1;
      return 100 * size + (runs === 1 ? 5000 : 0);
    });
    expect(sizes.at(-1)).toBe(1);
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
