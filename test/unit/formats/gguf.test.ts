/** GGUF and ONNX headers: hostile ones give a catalogue error and never a large allocation or a loop. */
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { BridgeError } from '../../../src/common/errors.js';
import { ByteSource, readGgufHeader, readOnnxMetadata } from '../../../src/formats/index.js';

const folder = mkdtempSync(join(tmpdir(), 'gguf-'));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

function withBytes<T>(bytes: Uint8Array, work: (source: ByteSource) => T): T {
  const path = join(folder, 'file');
  writeFileSync(path, bytes);
  const file = openSync(path, 'r');
  try {
    return work(new ByteSource(file, bytes.length));
  } finally {
    closeSync(file);
  }
}

const u64 = (value: bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
};
const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const text = (value: string): Buffer => Buffer.concat([u64(BigInt(value.length)), Buffer.from(value)]);
const gguf = (tensors: bigint, keys: bigint, ...rest: Buffer[]): Buffer =>
  Buffer.concat([Buffer.from('GGUF'), u32(3), u64(tensors), u64(keys), ...rest, Buffer.alloc(200)]);

describe('a GGUF header', () => {
  it.each([
    ['claims 2^60 tensors', gguf(2n ** 60n, 0n)],
    ['claims more keys than bytes', gguf(0n, 10_000n)],
    ['has a key of 2^62 bytes', gguf(0n, 1n, u64(2n ** 62n))],
    ['has a value of an unknown type', gguf(0n, 1n, text('a'), u32(99))],
    ['has a list of 2^40 numbers', gguf(0n, 1n, text('a'), u32(9), u32(4), u64(2n ** 40n))],
    [
      'has lists in lists in lists in lists in lists',
      gguf(0n, 1n, text('a'), ...Array.from({ length: 6 }, () => [u32(9), u32(9), u64(1n)]).flat()),
    ],
    ['has a tensor of 100 dimensions', gguf(1n, 0n, text('a'), u32(100))],
    ['has a tensor beyond the end', gguf(1n, 0n, text('a'), u32(1), u64(1_000_000n), u32(0), u64(0n))],
    ['has a shape that overflows', gguf(1n, 0n, text('a'), u32(2), u64(2n ** 52n), u64(2n ** 52n), u32(0), u64(0n))],
    ['has another version', Buffer.concat([Buffer.from('GGUF'), u32(9), Buffer.alloc(64)])],
  ])('that %s is refused', (_what, bytes) => {
    const read = (): unknown => withBytes(bytes, (source) => readGgufHeader(source, 'x.gguf'));
    expect(read).toThrow(expect.objectContaining({ code: 'GGUF_INVALID' }));
  });

  it('gives sides in the order of the tensor, and passes over the tail of long lists', () => {
    const words = Array.from({ length: 100 }, (_none, i) => text(`word ${i}`));
    const bytes = gguf(
      1n,
      2n,
      text('w'),
      u32(9),
      u32(8),
      u64(100n),
      ...words,
      text('general.architecture'),
      u32(8),
      text('t5'),
      text('x'),
      u32(2),
      u64(3n),
      u64(5n),
      u32(1),
      u64(0n),
    );
    const { keys, table } = withBytes(bytes, (source) => readGgufHeader(source, 'x.gguf'));
    expect(keys.get('general.architecture')).toBe('t5');
    expect(keys.get('w')).toHaveLength(32);
    expect([table.name(0), table.dtype(0), table.shape(0)]).toEqual(['x', 'F16', [5, 3]]);
  });
});

it('any bytes are read, or refused with an error of the catalogue', async () => {
  const good = await readFile(new URL('../../golden/models/flux-q8.gguf', import.meta.url));
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 8 }),
      fc.nat(good.length),
      (changes, length) => {
        const bytes = Buffer.from(good.subarray(0, length));
        for (const [at, byte] of changes) if (at < bytes.length) bytes[at] = byte;
        for (const read of [readGgufHeader, readOnnxMetadata]) {
          try {
            withBytes(bytes, (source) => read(source, 'x'));
          } catch (error) {
            expect(error).toBeInstanceOf(BridgeError);
          }
        }
      },
    ),
    { numRuns: 300 },
  );
});
