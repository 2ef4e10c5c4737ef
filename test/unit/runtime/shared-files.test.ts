import { fstatSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createSharedFiles, SharedFiles } from '../../../src/runtime/shared-files.js';

const LARGE = 100_000;

/** `file` is the one that the parent writes. */
function bothSides(): { parent: SharedFiles; child: SharedFiles; file: number; close: () => void } {
  const created = createSharedFiles();
  if (created === undefined) throw new Error('no shared files here');
  const [toChild = -1, toParent = -1] = created.inherited;
  return { parent: created.files, child: new SharedFiles(toParent, toChild), file: toChild, close: created.close };
}

/** Through a channel, which copies. */
const sent = (value: unknown): unknown => structuredClone(value);

describe.skipIf(process.platform === 'win32')('shared files', () => {
  it('carry large arrays of any kind in lists and objects, and leave the rest in the message', () => {
    const { parent, child, close } = bothSides();
    const value = {
      name: 'features',
      small: Float32Array.of(1, 2),
      other: new BigInt64Array(LARGE).fill(3n),
      list: [new Uint8Array(LARGE).fill(7), { deep: Float32Array.from({ length: LARGE }, (_none, i) => i / 3) }],
      nothing: undefined,
      halves: new Uint16Array(LARGE).fill(65_535),
    };
    const message = sent(parent.place(1, value));
    expect(
      JSON.stringify(message, (_key, entry: unknown) => (typeof entry === 'bigint' ? 0 : entry)).length,
    ).toBeLessThan(1_500_000);
    expect(message).toMatchObject({ list: [{ sharedArray: 'Uint8Array', sizeBytes: LARGE }, {}] });
    expect(child.take(message)).toEqual(value);
    close();
  });

  it('keep what one call placed while others come and go, and use its room again when it is freed', () => {
    const { parent, child, close } = bothSides();
    const array = (value: number): Uint8Array => new Uint8Array(LARGE).fill(value);
    const [first, second] = [sent(parent.place(1, array(1))), sent(parent.place(2, array(2)))];
    parent.free(1);
    const third = sent(parent.place(3, array(3)));
    expect(third).toMatchObject({ offset: 0 });
    const wide = sent(parent.place(4, new Uint8Array(2 * LARGE).fill(4)));
    expect(wide).toMatchObject({ offset: 2 * LARGE });
    expect(child.take(second)).toEqual(array(2));
    expect(child.take(third)).toEqual(array(3));
    expect(child.take(wide)).toEqual(new Uint8Array(2 * LARGE).fill(4));
    expect(first).toMatchObject({ offset: 0 });
    close();
  });

  it('give memory back when nothing lies in them any more', () => {
    const { parent, child, file, close } = bothSides();
    const large = new Uint8Array(50_000_000).fill(5);
    const [first, second] = [sent(parent.place(1, large)), sent(parent.place(2, new Uint8Array(LARGE).fill(6)))];
    parent.free(1);
    expect(fstatSync(file).size).toBeGreaterThan(large.length);
    expect(first).toMatchObject({ offset: 0 });
    expect(child.take(second)).toEqual(new Uint8Array(LARGE).fill(6));
    parent.free(2);
    expect(fstatSync(file).size).toBeLessThan(large.length);
    expect(Buffer.compare(child.take(sent(parent.place(3, large))) as Uint8Array, large)).toBe(0);
    close();
  });

  it('leave an array in the message that is larger than what they may hold', () => {
    const { parent, close } = bothSides();
    const half = new Uint8Array(2 ** 27);
    expect(parent.place(1, half)).toMatchObject({ offset: 0 });
    expect(parent.place(1, half)).toMatchObject({ offset: 2 ** 27 });
    expect(parent.place(2, half)).toBe(half);
    close();
  });
});
