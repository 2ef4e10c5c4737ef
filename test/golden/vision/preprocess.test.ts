/**
 * Decoding and preprocessing against pictures recorded from ComfyUI. Format: golden README, "preprocess/".
 *
 * Tolerances are the README's: at most one level, in at most 0.5 % of the values; decoded pixels exact for lossless
 * formats, at most two levels and 0.05 on average for lossy ones.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import * as z from 'zod';
import { decodeImage, preprocessToU8, toImageTensor } from '../../../src/image/index.js';
import { goldenVisionFolder, readCases } from './golden-folder.js';

const folder = join(goldenVisionFolder, 'preprocess');
const { sources, cases } = readCases(
  join(folder, 'cases.json'),
  z.object({
    sources: z.array(
      z.object({
        file: z.string(),
        width: z.number(),
        height: z.number(),
        frames: z.number(),
        rgb_sha256: z.array(z.string()),
        quirk: z.boolean().optional(),
        decoded: z.array(z.string()).optional(),
      }),
    ),
    cases: z.array(
      z.object({
        src: z.string(),
        size: z.number(),
        crop: z.enum(['center', 'none']),
        expected: z.array(z.string()),
        quirk: z.boolean().optional(),
      }),
    ),
  }),
  { sources: [], cases: [] },
);

const quirks = new Set(sources.filter((source) => source.quirk === true).map((source) => source.file));

describe.runIf(sources.length > 0)('decodeImage', () => {
  for (const source of sources.filter(({ file }) => !quirks.has(file))) {
    it(`decodes ${source.file} as ComfyUI's LoadImage does`, async () => {
      const { rgb } = await decodeImage(join(folder, source.file));
      expect(rgb.shape).toEqual([source.frames, source.height, source.width, 3]);
      const length = source.height * source.width * 3;
      for (let frame = 0; frame < source.frames; frame += 1) {
        const data = rgb.data.subarray(frame * length, (frame + 1) * length);
        const hash = createHash('sha256').update(data).digest('hex');
        if (hash === source.rgb_sha256[frame]) continue;
        // Only decoders of lossy formats may differ, and only a little.
        expect(source.file).toMatch(/\.(jpg|webp)$/);
        const expected = await sharp(join(folder, source.decoded?.[frame] ?? ''))
          .raw()
          .toBuffer();
        expect(difference(data, expected)).toMatchObject({
          max: expect.toSatisfy((max) => Number(max) <= 2) as number,
        });
        expect(difference(data, expected).mean).toBeLessThanOrEqual(0.05);
      }
    });
  }

  for (const file of quirks) {
    it(`keeps the high byte of ${file}, which ComfyUI turns white (intended difference)`, async () => {
      const { rgb } = await decodeImage(join(folder, file));
      const { data } = await sharp(join(folder, file))
        .toColourspace('grey16')
        .raw({ depth: 'ushort' })
        .toBuffer({ resolveWithObject: true });
      const values = new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2);
      expect(rgb.data.length).toBe(values.length * 3);
      values.forEach((value, i) => {
        if (rgb.data[i * 3] !== value >> 8) expect(rgb.data[i * 3]).toBe(value >> 8);
      });
    });
  }
});

describe.runIf(cases.length > 0)('preprocessToU8', () => {
  for (const { src, size, crop, expected } of cases.filter((entry) => entry.quirk !== true && !quirks.has(entry.src))) {
    it(`gives ComfyUI's 8-bit picture of ${src} at ${size} with crop ${crop}`, async () => {
      const { rgb } = await decodeImage(join(folder, src));
      const got = preprocessToU8(rgb, { size, crop });
      expect(got.shape).toEqual([expected.length, size, size, 3]);
      for (const [frame, file] of expected.entries()) {
        const reference = await sharp(join(folder, file)).raw().toBuffer();
        const data = got.data.subarray(frame * reference.length, (frame + 1) * reference.length);
        const { max, share } = difference(data, reference);
        expect(max).toBeLessThanOrEqual(1);
        expect(share).toBeLessThanOrEqual(0.005);
      }
    });
  }

  it('gives the same picture for u8 levels and for the f32 tensor made of them', async () => {
    const { rgb } = await decodeImage(join(folder, cases[0]?.src ?? ''));
    const options = { size: 224, crop: 'center' } as const;
    expect(preprocessToU8(toImageTensor(rgb), options).data).toEqual(preprocessToU8(rgb, options).data);
  });
});

function difference(got: Uint8Array, expected: Uint8Array): { max: number; mean: number; share: number } {
  expect(got.length).toBe(expected.length);
  let max = 0;
  let sum = 0;
  let differing = 0;
  for (let i = 0; i < got.length; i += 1) {
    const delta = Math.abs((got[i] ?? 0) - (expected[i] ?? 0));
    max = Math.max(max, delta);
    sum += delta;
    if (delta > 0) differing += 1;
  }
  return { max, mean: sum / got.length, share: differing / got.length };
}
