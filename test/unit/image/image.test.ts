import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  decodeImage,
  encodePng,
  preprocess,
  preprocessToU8,
  roundHalfEven,
  toImageTensor,
} from '../../../src/image/index.js';
import { f32Tensor, u8Tensor } from '../../../src/tensor/tensor.js';

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-image-'));
});
afterAll(() => rm(folder, { recursive: true }));

const png = (width: number, height: number): Promise<Buffer> =>
  sharp({ create: { width, height, channels: 4, background: { r: 10, g: 20, b: 30, alpha: 0.5 } } })
    .png()
    .toBuffer();

describe('decodeImage', () => {
  it('keeps colours under alpha, and gives the alpha apart', async () => {
    const { rgb, alpha } = await decodeImage(await png(2, 3));
    expect(rgb.shape).toEqual([1, 3, 2, 3]);
    expect([...rgb.data.slice(0, 3)]).toEqual([10, 20, 30]);
    expect(alpha?.shape).toEqual([1, 3, 2]);
    expect(alpha?.data[0]).toBe(128);
  });

  it.each([
    ['nothing', Buffer.alloc(0)],
    ['text', Buffer.from('<html>not found</html>')],
    ['a cut-off JPEG', undefined],
  ])('refuses %s, naming it', async (what, bytes) => {
    const path = join(folder, `${what.replaceAll(' ', '-')}.jpg`);
    const cut = await sharp({ create: { width: 200, height: 200, channels: 3, background: 'red' } })
      .jpeg()
      .toBuffer();
    await writeFile(path, bytes ?? cut.subarray(0, 300));
    await expect(decodeImage(path)).rejects.toMatchObject({
      code: 'IMAGE_INVALID',
      message: expect.stringContaining(path) as string,
    });
  });

  it('refuses more pixels than the limit, before decoding them', async () => {
    await expect(decodeImage(await png(100, 100), { maxPixels: 9999, label: 'big.png' })).rejects.toMatchObject({
      code: 'IMAGE_TOO_LARGE',
      message: expect.stringContaining('big.png') as string,
    });
  });

  it('counts the pixels of all frames', async () => {
    const frames = await sharp(
      Buffer.from(Uint8Array.from({ length: 20 * 80 * 3 }, (_none, i) => Math.floor(i / 1200) * 60)),
      {
        raw: { width: 20, height: 80, channels: 3, pageHeight: 20 },
      },
    )
      .gif()
      .toBuffer();
    expect((await decodeImage(frames)).rgb.shape).toEqual([4, 20, 20, 3]);
    await expect(decodeImage(frames, { maxPixels: 1000 })).rejects.toMatchObject({ code: 'IMAGE_TOO_LARGE' });
  });
});

describe('encodePng', () => {
  it('scales by 255, clips, truncates, and carries text that readers find', async () => {
    const image = f32Tensor([1, 1, 2, 3], Float32Array.of(0.5, 0.999, -1, 2, 1, 0));
    const bytes = await encodePng(
      image,
      0,
      new Map([
        ['prompt', '{"a": 1}'],
        ['ünï', '日本'],
      ]),
      4,
    );
    const path = join(folder, 'text.png');
    await writeFile(path, bytes);
    expect([...(await sharp(path).raw().toBuffer())]).toEqual([127, 254, 0, 255, 255, 0]);
    const raw = await readFile(path);
    expect(raw.includes(Buffer.from('tEXtprompt\0{"a": 1}', 'latin1'))).toBe(true);
    expect(
      raw.includes(Buffer.concat([Buffer.from('iTXtünï\0', 'latin1'), Buffer.from([0, 0, 0, 0]), Buffer.from('日本')])),
    ).toBe(true);
  });
});

describe('preprocess', () => {
  it('rounds half to even, as Python does', () => {
    expect([0.5, 1.5, 2.5, 224.5, 225.5, 0.49, 0.51].map(roundHalfEven)).toEqual([0, 2, 2, 224, 226, 0, 1]);
  });

  it('normalizes per channel in planes', () => {
    const levels = u8Tensor([1, 2, 2, 3], Uint8Array.of(255, 0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0));
    const { data, shape } = preprocess(levels, { size: 2, crop: 'center', mean: [0.5, 0.25, 0], std: [0.5, 0.5, 1] });
    expect(shape).toEqual([1, 3, 2, 2]);
    expect([...data]).toEqual([1, 1, 1, 1, -0.5, -0.5, -0.5, -0.5, 0, 0, 0, 0]);
  });

  it('takes pictures of one pixel and of extreme shapes', () => {
    for (const [height, width] of [
      [1, 1],
      [1, 500],
      [3000, 2],
    ] as const) {
      const picture = toImageTensor(u8Tensor([1, height, width, 3], new Uint8Array(height * width * 3).fill(200)));
      for (const crop of ['center', 'none'] as const) {
        const { data } = preprocessToU8(picture, { size: 56, crop });
        expect(data.every((level) => level === 200)).toBe(true);
      }
    }
  });

  it('refuses what is no image tensor', () => {
    expect(() => preprocessToU8(u8Tensor([2, 2, 3], new Uint8Array(12)), { size: 2, crop: 'none' })).toThrow(
      /\[B, H, W, C\]/,
    );
  });
});
