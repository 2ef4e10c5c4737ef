import { chmod, mkdtemp, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BridgeError } from '../../../src/common/errors.js';
import {
  parseSafetensors,
  readSafetensorsHeader,
  readTensor,
  serializeSafetensors,
} from '../../../src/formats/index.js';
import { f32Tensor, u8Tensor } from '../../../src/tensor/tensor.js';

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-formats-'));
});
afterAll(() => rm(folder, { recursive: true }));

/** A document with this header, whatever it says, and so much data. */
function document(header: string | object, dataBytes = 0, claimed?: bigint): Uint8Array {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(claimed ?? BigInt(json.length));
  return Buffer.concat([length, json, Buffer.alloc(dataBytes)]);
}

const entry = (shape: unknown, offsets: unknown, dtype: unknown = 'F32'): object => ({
  dtype,
  shape,
  data_offsets: offsets,
});

describe('a hostile header', () => {
  it.each([
    ['no bytes', new Uint8Array(0), /0 bytes, too few/],
    ['a claim beyond the file', document('{}', 0, 5000n), /claims 5000 bytes but the file has 10.*truncated/],
    ['a claim beyond all reason', document('{}', 0, 2n ** 63n), /limit is 100000000/],
    ['no JSON', document('{"a": '), /not JSON/],
    [
      'not UTF-8',
      Buffer.concat([Buffer.from([4, 0, 0, 0, 0, 0, 0, 0]), Buffer.from([0x7b, 0x22, 0xff, 0x7d])]),
      /not JSON in UTF-8/,
    ],
    ['a list', document('[]'), /does not begin with "\{"/],
    ['metadata that is no text', document({ __metadata__: { a: 1 } }), /__metadata__ entry "a" is not text/],
    ['metadata that is a list', document({ __metadata__: [] }), /__metadata__ is not an object/],
    ['an entry that is null', document({ a: null }), /"a" is not described/],
    ['an unknown dtype', document({ a: entry([1], [0, 4], 'F33') }, 4), /unknown dtype "F33"/],
    ['a dtype of Object', document({ a: entry([1], [0, 4], 'constructor') }, 4), /unknown dtype/],
    ['a negative side', document({ a: entry([-1], [0, 4]) }, 4), /no list of whole numbers/],
    ['a fractional side', document({ a: entry([0.5], [0, 2]) }, 2), /no list of whole numbers/],
    ['a product that overflows', document({ a: entry([2 ** 40, 2 ** 40], [0, 4]) }, 4), /absurd shape/],
    ['too many dimensions', document({ a: entry(new Array(33).fill(1), [0, 4]) }, 4), /33 dimensions/],
    ['an end before the beginning', document({ a: entry([1], [4, 0]) }, 4), /before it begins/],
    ['three offsets', document({ a: entry([1], [0, 4, 8]) }, 8), /no pair/],
    ['a size that does not fit the shape', document({ a: entry([2], [0, 4]) }, 4), /needs 8 bytes .* spans 4/],
    ['overlap', document({ a: entry([2], [0, 8]), b: entry([2], [4, 12]) }, 12), /"b" overlaps/],
    ['a hole', document({ a: entry([1], [0, 4]), b: entry([1], [8, 12]) }, 12), /hole of 4 bytes/],
    ['a hole at the beginning', document({ a: entry([1], [4, 8]) }, 8), /hole of 4 bytes/],
    ['data that is missing', document({ a: entry([100], [0, 400]) }, 40), /truncated download/],
    ['data that is too much', document({ a: entry([1], [0, 4]) }, 8), /4 bytes follow/],
    ['a web page', Buffer.from('<html><body>Please log in</body></html>'), /web page/],
    ['a ZIP archive', Buffer.from('PK\u0003\u0004 and more bytes'), /ZIP archive/],
    ['a pickle', Buffer.from([0x80, 2, 0x7d, 0x71, 0, 0x2e, 1, 2, 3]), /pickle.*not opened/],
  ])('%s is refused, naming what is wrong', (_what, bytes, message) => {
    expect(() => parseSafetensors(bytes, 'x.safetensors')).toThrow(message);
    expect(() => parseSafetensors(bytes, 'x.safetensors')).toThrow('x.safetensors');
  });

  it('of random bytes never gives anything but a catalogue error', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.string(), (bytes, text) => {
        for (const input of [bytes, document(text, bytes.length)]) {
          try {
            parseSafetensors(input);
          } catch (error) {
            expect(error).toBeInstanceOf(BridgeError);
          }
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('a sound document', () => {
  it('gives back what was written, with names that objects do not like', () => {
    const tensors = {
      a: f32Tensor([2, 2], Float32Array.of(1, -2, 3.5, NaN)),
      toString: u8Tensor([3], Uint8Array.of(1, 2, 3)),
      scalar: f32Tensor([], Float32Array.of(7)),
    };
    const parsed = parseSafetensors(serializeSafetensors(tensors, { who: 'tëst' }));
    expect([...parsed.metadata]).toEqual([['who', 'tëst']]);
    expect(parsed.tensors.get('a')).toEqual(tensors.a);
    expect(parsed.tensors.get('toString')).toEqual(tensors.toString);
    expect(parsed.tensors.get('scalar')?.shape).toEqual([]);
  });

  it('may be empty, may pad its header, and may carry tensors without elements', () => {
    expect(parseSafetensors(document('{}')).tensors.size).toBe(0);
    expect(parseSafetensors(document('{}    ')).tensors.size).toBe(0);
    expect(parseSafetensors(document({ a: entry([0, 5], [0, 0]) })).tensors.get('a')?.shape).toEqual([0, 5]);
  });

  it('is read where its data is not aligned', () => {
    const bytes = document(`${JSON.stringify({ a: entry([1], [0, 4]) })} `, 4);
    new DataView(bytes.buffer, bytes.byteOffset).setFloat32(bytes.length - 4, 2.5, true);
    expect(parseSafetensors(bytes).tensors.get('a')?.data[0]).toBe(2.5);
  });
});

describe('a file', () => {
  it('is read through links and from folders that cannot be written, range by range', async () => {
    const path = join(folder, 'model.safetensors');
    await writeFile(
      path,
      serializeSafetensors({ a: f32Tensor([2], Float32Array.of(4, 5)), b: u8Tensor([1], Uint8Array.of(9)) }),
    );
    await symlink(path, join(folder, 'link.safetensors'));
    await chmod(folder, 0o555);
    const header = await readSafetensorsHeader(join(folder, 'link.safetensors'));
    await chmod(folder, 0o755);
    expect(header.path).toBe(path);
    expect([...header.tensors.keys()]).toEqual(['a', 'b']);
    expect((await readTensor(header, 'b')).data[0]).toBe(9);
    await expect(readTensor(header, 'c')).rejects.toMatchObject({ code: 'TENSOR_MISSING' });
    await truncate(path, 30);
    await expect(readSafetensorsHeader(path)).rejects.toMatchObject({ code: 'SAFETENSORS_INVALID' });
    await expect(readTensor(header, 'a')).rejects.toThrow(/became shorter/);
  });

  it('that is missing, or a folder, says so', async () => {
    await expect(readSafetensorsHeader(join(folder, 'none.safetensors'))).rejects.toMatchObject({
      code: 'MODEL_NOT_FOUND',
    });
    await expect(readSafetensorsHeader(folder)).rejects.toMatchObject({ code: 'MODEL_UNREADABLE' });
  });
});
