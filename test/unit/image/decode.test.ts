/** Formats that are read are read as Pillow reads them; formats that are not are refused by name, at once. */
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as z from 'zod';
import { decodeImage } from '../../../src/image/index.js';
import { gifClaiming, pngClaiming, tiffClaiming } from '../../support/hostile-images.js';

const base64 = z.string().transform((text) => Buffer.from(text, 'base64'));
const { pictures } = z
  .object({
    pictures: z.array(
      z.object({ name: z.string(), bytes: base64, shape: z.array(z.number()), rgb: base64, alpha: base64.optional() }),
    ),
  })
  .parse(JSON.parse(readFileSync(new URL('pillow-pictures.json', import.meta.url), 'utf8')));

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-decode-'));
});
afterAll(() => rm(folder, { recursive: true }));

describe('a picture recorded from Pillow', () => {
  it.each(pictures)('$name has the same frames and colours', async ({ name, bytes, shape, rgb, alpha }) => {
    for (const withAlpha of [true, false]) {
      const got = await decodeImage(bytes, { withAlpha });
      expect(got.rgb.shape).toEqual(shape);
      expect([...got.rgb.data]).toEqual([...rgb]);
      if (!withAlpha) expect(got.alpha).toBeUndefined();
      else if (alpha !== undefined) expect([...(got.alpha?.data ?? [])]).toEqual([...alpha]);
    }
    const path = join(folder, name);
    await writeFile(path, bytes);
    expect([...(await decodeImage(path)).rgb.data]).toEqual([...rgb]);
  });
});

describe('a BMP that is broken', () => {
  const whole = pictures.find(({ name }) => name === 'bmp-24.bmp')?.bytes ?? Buffer.alloc(0);
  const runs = pictures.find(({ name }) => name === 'bmp-rle8.bmp')?.bytes ?? Buffer.alloc(0);
  const changed = (at: number, value: number): Buffer => {
    const copy = Buffer.from(whole);
    copy.writeInt32LE(value, at);
    return copy;
  };
  it.each([
    ['ends inside its header', whole.subarray(0, 30), 'IMAGE_INVALID', /ends inside its header/],
    ['ends inside its pixels', whole.subarray(0, -30), 'IMAGE_INVALID', /ends before its last row/],
    ['ends inside its runs', runs.subarray(0, -8), 'IMAGE_INVALID', /ends before its last row/],
    ['has a header of another length', changed(14, 41), 'IMAGE_INVALID', /header is 41 bytes/],
    ['claims a negative width', changed(18, -7), 'IMAGE_INVALID', /size is -7×5/],
    ['claims more pixels than are read', changed(18, 2 ** 31 - 1), 'IMAGE_TOO_LARGE', /limit/],
    ['has 7 bits per pixel', changed(28, 7), 'IMAGE_INVALID', /7 bits per pixel/],
    ['holds a JPEG', changed(30, 4), 'IMAGE_INVALID', /compression has the unknown number 4/],
    ['claims masks that no writer makes', changed(28, 32 + 3 * 65_536), 'IMAGE_INVALID', /colour masks/],
    ['claims its pixels far behind its end', changed(10, 2 ** 31 - 1), 'IMAGE_INVALID', /ends before its last row/],
  ])('and %s is refused', async (_what, bytes, code, message) => {
    await expect(decodeImage(bytes)).rejects.toMatchObject({ code, message: expect.stringMatching(message) as string });
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
    [
      'an icon',
      Buffer.from([0, 0, 1, 0, 1, 0, 16, 16]),
      /is an icon \(ICO\), which is not read: save it as PNG or JPEG/,
    ],
    ['a HEIC', heif('heic'), /HEIC/],
    ['an animated AVIF', heif('avis'), /animated AVIF/],
    ['a video', heif('isom'), /is a video/],
    ['a JPEG XL', Buffer.from('\xff\x0a\0\0', 'latin1'), /JPEG XL/],
    ['a PPM', Buffer.from('P6 1 1 255\n...'), /PNM/],
    ['a web page', Buffer.from('<!DOCTYPE html><html>'), /web page/],
    ['text', Buffer.from('hello'), /png, jpeg, webp, gif, tiff, avif, bmp are/],
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
