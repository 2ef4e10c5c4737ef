import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readImageInput, type ImageInput } from '../../../src/image/index.js';

/** Two pictures of two rows and three columns: `LEVELS[b][y][x]` is a colour. */
const LEVELS: readonly (readonly (readonly (readonly number[])[])[])[] = [0, 1].map((b) =>
  [0, 1].map((y) => [0, 1, 2].map((x) => [0, 1, 2].map((c) => (b * 100 + y * 50 + x * 16 + c * 5 + 3) % 256))),
);
const [FIRST = []] = LEVELS;
const ALPHA = 111;

type Pixel = (b: number, y: number, x: number, c: number) => number;
const colour: Pixel = (b, y, x, c) => (c === 3 ? ALPHA : (LEVELS[b]?.[y]?.[x]?.[c] ?? NaN));
const grey: Pixel = (b, y, x, c) => (c === 1 ? ALPHA : (LEVELS[b]?.[y]?.[x]?.[0] ?? NaN));

/** Values in the order of some axes. */
function layOut(axes: string, batch: number, channels: number, pixel: Pixel): number[] {
  const sizes: Record<string, number> = { b: batch, h: 2, w: 3, c: channels };
  const order = Array.from(axes);
  const walk = (at: number, place: Record<string, number>): number[] =>
    at === order.length
      ? [pixel(place['b'] ?? 0, place['h'] ?? 0, place['w'] ?? 0, place['c'] ?? 0)]
      : Array.from({ length: sizes[order[at] ?? ''] ?? 0 }).flatMap((_none, i) =>
          walk(at + 1, { ...place, [order[at] ?? '']: i }),
        );
  return walk(0, {});
}
const asFloats = (levels: readonly number[]): Float32Array => Float32Array.from(levels, (level) => level / 255);

const one = FIRST.flat(2);
const both = LEVELS.flat(3);
const greyOf = (values: readonly number[]): number[] => values.map((_value, i) => values[i - (i % 3)] ?? NaN);

let folder = '';
let png: Buffer;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-input-'));
  png = await sharp(Uint8Array.from(one), { raw: { width: 3, height: 2, channels: 3 } })
    .png()
    .toBuffer();
  await writeFile(join(folder, 'picture.png'), png);
});
afterAll(() => rm(folder, { recursive: true }));

describe('an array', () => {
  for (const [axes, batch] of [
    ['hwc', 1],
    ['chw', 1],
    ['bhwc', 2],
    ['bchw', 2],
  ] as const) {
    for (const channels of [1, 2, 3, 4] as const) {
      const levels = layOut(axes, batch, channels, channels < 3 ? grey : colour);
      const expected = channels < 3 ? greyOf(batch === 1 ? one : both) : batch === 1 ? one : both;
      const sizes = { b: batch, h: 2, w: 3, c: channels };
      const shape = Array.from(axes, (axis) => sizes[axis as keyof typeof sizes]);

      it(`u8-${axes} of ${channels} channels is its RGB`, async () => {
        const input = { kind: `u8-${axes}`, data: Uint8Array.from(levels), shape } as unknown as ImageInput;
        const got = await readImageInput(input);
        expect(got.dtype).toBe('U8');
        expect(got.shape).toEqual([batch, 2, 3, 3]);
        expect([...got.data]).toEqual(expected);
      });

      it(`f32-${axes} of ${channels} channels is its RGB`, async () => {
        const got = await readImageInput({
          kind: `f32-${axes}`,
          data: asFloats(levels),
          shape,
        } as unknown as ImageInput);
        expect(got.dtype).toBe('F32');
        expect(got.shape).toEqual([batch, 2, 3, 3]);
        expect([...got.data]).toEqual([...asFloats(expected)]);
      });
    }
  }

  it('of 16 bits keeps its high byte', async () => {
    const wide = (levels: readonly number[]): Uint16Array => Uint16Array.from(levels, (level) => level * 256 + 255);
    const rgb = await readImageInput({ kind: 'u16-hwc', data: wide(one), shape: [2, 3, 3] });
    expect([...rgb.data]).toEqual(one);
    const plane = await readImageInput({ kind: 'u16-hw', data: wide(layOut('hw', 1, 1, grey)), shape: [2, 3] });
    expect([...plane.data]).toEqual(greyOf(one));
  });

  it('that is a mask is a grey picture', async () => {
    const plane = layOut('hw', 1, 1, grey);
    const planes = layOut('bhw', 2, 1, grey);
    const levels = await readImageInput({ kind: 'u8-mask', data: Uint8Array.from(plane), shape: [2, 3] });
    expect(levels.shape).toEqual([1, 2, 3, 3]);
    expect([...levels.data]).toEqual(greyOf(one));
    const floats = await readImageInput({ kind: 'f32-mask', data: asFloats(planes), shape: [2, 2, 3] });
    expect(floats.shape).toEqual([2, 2, 3, 3]);
    expect([...floats.data]).toEqual([...asFloats(greyOf(both))]);
  });

  it('in a Buffer is read as the levels that it holds', async () => {
    const { data } = await readImageInput({
      kind: 'u8-chw',
      data: Buffer.from(layOut('chw', 1, 3, colour)),
      shape: [3, 2, 3],
    });
    expect([...data]).toEqual(one);
  });
});

describe('a file', () => {
  it('is read by path, by bytes and through a sharp pipeline', async () => {
    const inputs: ImageInput[] = [
      { kind: 'file', path: join(folder, 'picture.png') },
      { kind: 'encoded', bytes: png },
      { kind: 'sharp', image: sharp(png) },
    ];
    for (const input of inputs) {
      const got = await readImageInput(input);
      expect(got.shape).toEqual([1, 2, 3, 3]);
      expect([...got.data]).toEqual(one);
    }
  });

  it('of one frame after another is a batch, also through a sharp pipeline', async () => {
    const strip = { raw: { width: 3, height: 4, channels: 3 as const, pageHeight: 2 } };
    const webp = await sharp(Uint8Array.from(both), strip).webp({ lossless: true }).toBuffer();
    for (const input of [
      { kind: 'encoded', bytes: webp },
      { kind: 'sharp', image: sharp(webp, { pages: -1 }) },
    ] satisfies ImageInput[]) {
      const got = await readImageInput(input);
      expect(got.shape).toEqual([2, 2, 3, 3]);
      expect([...got.data]).toEqual(both);
    }
  });

  it('in a pipeline keeps what the pipeline does, and the pipeline can be used again', async () => {
    const image = sharp(png).flop();
    const expected = FIRST.flatMap((row) => row.toReversed().flat());
    expect([...(await readImageInput({ kind: 'sharp', image })).data]).toEqual(expected);
    expect([...(await image.raw().toBuffer())]).toEqual(expected);
  });

  it('that is broken is named', async () => {
    const bytes = png.subarray(0, 50);
    await expect(readImageInput({ kind: 'encoded', bytes, label: 'half.png' })).rejects.toMatchObject({
      code: 'IMAGE_INVALID',
      message: expect.stringContaining('half.png') as string,
    });
    await expect(readImageInput({ kind: 'sharp', image: sharp(bytes) })).rejects.toMatchObject({
      code: 'IMAGE_INVALID',
    });
  });
});

describe('an input that is wrong', () => {
  const floats = (value: number, at: number): Float32Array => new Float32Array(18).fill(0.5).fill(value, at, at + 1);
  it.each([
    ['NaN', { kind: 'f32-hwc', data: floats(NaN, 13), shape: [2, 3, 3] }, /NaN at \[1, 1, 1\]/],
    ['infinity', { kind: 'f32-bchw', data: floats(-Infinity, 17), shape: [1, 3, 2, 3] }, /-Infinity at \[0, 2, 1, 2\]/],
    ['too few values', { kind: 'u8-hwc', data: new Uint8Array(17), shape: [2, 3, 3] }, /has 18 values, got 17/],
    ['a rank too many', { kind: 'u8-hwc', data: new Uint8Array(18), shape: [1, 2, 3, 3] }, /\[H, W, C\], got/],
    ['a mask of four sides', { kind: 'u8-mask', data: new Uint8Array(6), shape: [1, 1, 2, 3] }, /\[B, H, W\]/],
    ['five channels', { kind: 'u8-hwc', data: new Uint8Array(30), shape: [2, 3, 5] }, /1 to 4 channels, got 5/],
    ['another layout', { kind: 'u8-chw', data: new Uint8Array(60), shape: [20, 1, 3] }, /is the layout another/],
    ['no rows', { kind: 'u8-hwc', data: new Uint8Array(0), shape: [0, 3, 3] }, /whole numbers from 1 on/],
    ['half a row', { kind: 'u8-hwc', data: new Uint8Array(9), shape: [1.5, 2, 3] }, /whole numbers/],
    ['another array', { kind: 'u8-hwc', data: new Float32Array(18), shape: [2, 3, 3] }, /is a Uint8Array/],
    ['an unknown kind', { kind: 'jpeg', data: new Uint8Array(18), shape: [2, 3, 3] }, /"jpeg" is not known/],
  ])('is refused: %s', async (_what, input, message) => {
    await expect(readImageInput(input as unknown as ImageInput)).rejects.toMatchObject({
      code: 'INVALID_REQUEST',
      message: expect.stringMatching(message) as string,
    });
  });

  it('is refused: more pixels than the limit', async () => {
    const input: ImageInput = { kind: 'u8-bhwc', data: new Uint8Array(36), shape: [2, 2, 3, 3] };
    await expect(readImageInput(input, { maxPixels: 11 })).rejects.toMatchObject({ code: 'IMAGE_TOO_LARGE' });
    await expect(readImageInput({ kind: 'sharp', image: sharp(png) }, { maxPixels: 5 })).rejects.toMatchObject({
      code: 'IMAGE_TOO_LARGE',
    });
  });
});
