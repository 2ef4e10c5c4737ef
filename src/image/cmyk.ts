/** CMYK pictures in RGB. Source: Pillow's conversion, measured. */
import type { Sharp } from 'sharp';
import { inSlices } from './slices.js';

/** n = 255 - K, each channel n - mul(C, n), with Pillow's rounded product. The pixels are the caller's. */
export async function cmykToRgb(
  image: Sharp,
  signal?: AbortSignal,
): Promise<{ readonly data: Uint8Array; readonly width: number; readonly height: number }> {
  const inks = image.pipelineColourspace('cmyk').toColourspace('cmyk');
  const { data, info } = await inks.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  // In place: three channels take the place of four.
  const convert = (begin: number, end: number): void => {
    for (let pixel = begin; pixel < end; pixel += 1) {
      const from = pixel * channels;
      const light = 255 - (data[from + 3] ?? 0);
      const cyan = (data[from] ?? 0) * light + 128;
      const magenta = (data[from + 1] ?? 0) * light + 128;
      const yellow = (data[from + 2] ?? 0) * light + 128;
      const to = pixel * 3;
      data[to] = Math.max(0, light - ((cyan + (cyan >> 8)) >> 8));
      data[to + 1] = Math.max(0, light - ((magenta + (magenta >> 8)) >> 8));
      data[to + 2] = Math.max(0, light - ((yellow + (yellow >> 8)) >> 8));
    }
  };
  await inSlices(width * height, channels, convert, signal);
  return { data: data.subarray(0, width * height * 3), width, height };
}
