/** Formats that are read are read as Pillow reads them; formats that are not are refused by name, at once. */
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { decodeImage } from '../../../src/image/index.js';
import { gifClaiming, pngClaiming, tiffClaiming } from '../../support/hostile-images.js';

const base64 = z.string().transform((text) => Buffer.from(text, 'base64'));
const { pictures, bmp } = z
  .object({
    pictures: z.array(z.object({ name: z.string(), bytes: base64, shape: z.array(z.number()), rgb: base64 })),
    bmp: base64,
  })
  .parse(JSON.parse(readFileSync(new URL('pillow-pictures.json', import.meta.url), 'utf8')));

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-decode-'));
});
afterAll(() => rm(folder, { recursive: true }));

describe('a picture recorded from Pillow', () => {
  it.each(pictures)('$name has the same frames and colours', async ({ name, bytes, shape, rgb }) => {
    for (const withAlpha of [true, false]) {
      const got = await decodeImage(bytes, { withAlpha });
      expect(got.rgb.shape).toEqual(shape);
      expect([...got.rgb.data]).toEqual([...rgb]);
      if (!withAlpha) expect(got.alpha).toBeUndefined();
    }
    const path = join(folder, name);
    await writeFile(path, bytes);
    expect([...(await decodeImage(path)).rgb.data]).toEqual([...rgb]);
  });
});

describe('what is no picture to be read', () => {
  const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>';
  const heif = (brand: string): Buffer => Buffer.from(`\0\0\0\x18ftyp${brand}\0\0\0\0${brand}mif1`, 'latin1');
  it.each([
    ['an SVG', Buffer.from(svg), /is an SVG/],
    ['an SVG behind a declaration', Buffer.from(`\ufeff<?xml version="1.0"?>\n${svg}`), /is an SVG/],
    ['an SVG behind a comment', Buffer.from(`<!-- drawn by hand -->\n${svg}`), /is an SVG/],
    ['a compressed SVG', gzipSync(svg), /gzip archive/],
    ['a PDF', Buffer.from('%PDF-1.7\n'), /PDF document/],
    ['PostScript', Buffer.from('%!PS-Adobe-3.0'), /PostScript/],
    ['a BMP', bmp, /is a BMP picture, which is not read: save it as PNG or JPEG/],
    ['a HEIC', heif('heic'), /HEIC/],
    ['an animated AVIF', heif('avis'), /animated AVIF/],
    ['a video', heif('isom'), /is a video/],
    ['a JPEG XL', Buffer.from('\xff\x0a\0\0', 'latin1'), /JPEG XL/],
    ['a PPM', Buffer.from('P6 1 1 255\n...'), /PNM/],
    ['a web page', Buffer.from('<!DOCTYPE html><html>'), /web page/],
    ['text', Buffer.from('hello'), /png, jpeg, webp, gif, tiff, avif are/],
    ['nothing', Buffer.alloc(0), /is empty/],
  ])('%s is refused by its name', async (_what, bytes, message) => {
    await expect(decodeImage(bytes, { label: 'the-file' })).rejects.toMatchObject({
      code: 'IMAGE_INVALID',
      message: expect.stringMatching(message) as string,
    });
    const path = join(folder, 'refused');
    await writeFile(path, bytes);
    await expect(decodeImage(path)).rejects.toMatchObject({ code: 'IMAGE_INVALID' });
  });

  it('a folder and a file that is not there are refused', async () => {
    await expect(decodeImage(folder)).rejects.toMatchObject({ code: 'IMAGE_INVALID' });
    await expect(decodeImage(join(folder, 'none.png'))).rejects.toMatchObject({
      code: 'IMAGE_INVALID',
      message: expect.stringContaining('none.png') as string,
    });
  });

  it('a drawing that takes minutes to render is refused before any of it is', async () => {
    const levels = Array.from(
      { length: 12 },
      (_none, i) => `<g id="g${i + 1}">${`<use href="#g${i}"/>`.repeat(10)}</g>`,
    );
    const bomb = `<svg xmlns="http://www.w3.org/2000/svg" width="9000" height="9000"><g id="g0"><rect width="1" height="1"/></g>${levels.join('')}</svg>`;
    const before = performance.now();
    await expect(decodeImage(Buffer.from(bomb))).rejects.toMatchObject({ code: 'IMAGE_INVALID' });
    expect(performance.now() - before).toBeLessThan(1000);
  });
});

describe('an animated PNG', () => {
  const sound = pictures.find(({ name }) => name === 'an animated PNG of Pillow')?.bytes ?? Buffer.alloc(0);
  /** The file with 32 bits of one of its chunks' data changed, at the `nth` chunk of a type. */
  const changed = (type: string, nth: number, offset: number, value: number): Buffer => {
    const out = Buffer.from(sound);
    let at = -1;
    for (let i = 0; i <= nth; i += 1) at = out.indexOf(type, at + 1, 'latin1');
    out.writeUInt32BE(value, at + 4 + offset);
    return out;
  };

  it.each([
    ['a frame that lies outside of it', changed('fcTL', 1, 12, 4)],
    ['a frame of no rows', changed('fcTL', 2, 8, 0)],
    ['a frame of 2^32 columns', changed('fcTL', 2, 4, 2 ** 32 - 1)],
    ['more frames claimed than there are', changed('acTL', 0, 0, 4_000_000_000)],
    ['an end amid its frames', sound.subarray(0, sound.length - 100)],
    ['rubbish in a frame', changed('fdAT', 1, 6, 0xdeadbeef)],
  ])('with %s is refused', async (_what, bytes) => {
    expect((await decodeImage(sound)).rgb.shape[0]).toBe(4);
    await expect(decodeImage(bytes)).rejects.toMatchObject({ code: 'IMAGE_INVALID' });
    const path = join(folder, 'animated.png');
    await writeFile(path, bytes);
    await expect(decodeImage(path)).rejects.toMatchObject({ code: 'IMAGE_INVALID' });
  });

  it('whose last chunk claims 4 GB is read no further than the file goes', async () => {
    const path = join(folder, 'claims.png');
    await writeFile(path, changed('fdAT', 2, -8, 0xfffffff0));
    const before = process.memoryUsage().arrayBuffers;
    const { rgb } = await decodeImage(path);
    expect(rgb.data).toEqual((await decodeImage(sound)).rgb.data);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(50_000_000);
  });

  it('counts the pixels of all frames', async () => {
    await expect(decodeImage(sound, { maxPixels: 79 })).rejects.toMatchObject({ code: 'IMAGE_TOO_LARGE' });
    expect((await decodeImage(sound, { maxPixels: 80 })).rgb.shape).toEqual([4, 4, 5, 3]);
  });
});

describe('limits', () => {
  it.each([
    ['pixels', pngClaiming({ width: 20_000, height: 20_000 })],
    ['pixels of all frames', gifClaiming(1000, 1000, 400, 1000)],
    ['frames', gifClaiming(1, 1, 5000)],
    ['pixels of a TIFF', tiffClaiming(60_000, 60_000)],
  ])('too many %s are refused', async (_what, bytes) => {
    await expect(decodeImage(bytes)).rejects.toMatchObject({ code: 'IMAGE_TOO_LARGE' });
  });

  it('pages of a TIFF count only where they are kept', async () => {
    const tiff = pictures.find(({ name }) => name.startsWith('a TIFF'))?.bytes ?? Buffer.alloc(0);
    expect((await decodeImage(tiff, { maxPixels: 20 })).rgb.shape).toEqual([2, 2, 3, 3]);
    await expect(decodeImage(tiff, { maxPixels: 11 })).rejects.toMatchObject({ code: 'IMAGE_TOO_LARGE' });
  });

  it('a caller who gave up gets no picture', async () => {
    const png = await sharp({ create: { width: 9, height: 9, channels: 3, background: 'red' } })
      .png()
      .toBuffer();
    await expect(decodeImage(png, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});
