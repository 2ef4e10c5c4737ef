import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { sha256Of } from '../../../src/common/sha256.js';

const MEGABYTE = 2 ** 20;

const bytes = (length: number): Uint8Array => Uint8Array.from({ length }, (_none, i) => (i * 31 + (i >> 8)) % 251);
const atOnce = (value: Uint8Array): string => createHash('sha256').update(value).digest('hex');

describe('sha256Of', () => {
  it.each([0, 1, 4 * MEGABYTE - 1, 4 * MEGABYTE, 4 * MEGABYTE + 1, 9 * MEGABYTE])(
    'is the hash of %d bytes, in whatever pieces',
    async (length) => {
      const value = bytes(length);
      expect(await sha256Of(value)).toBe(atOnce(value));
      const cut = Math.floor(length / 3);
      expect(await sha256Of(value.subarray(0, cut), new Uint8Array(0), value.subarray(cut))).toBe(atOnce(value));
    },
  );

  it('lets others have their turn while it hashes much', async () => {
    let turns = 0;
    const count = setInterval(() => (turns += 1), 1);
    await sha256Of(new Uint8Array(64 * MEGABYTE));
    clearInterval(count);
    expect(turns).toBeGreaterThan(3);
  });
});
