/**
 * Image files and bytes to pixels, as ComfyUI's LoadImage sees them.
 *
 * EXIF orientation is applied, ICC profiles are ignored, alpha is dropped and never composited, 16-bit values lose their
 * low byte, CMYK goes through Pillow's formula, and the frames of an animation become a batch. One intended difference:
 * 16-bit grey, which ComfyUI 0.3.64 turns white through a defect of its own.
 *
 * Source: ComfyUI, nodes.py, `LoadImage`; measured against Pillow.
 */
import type { Metadata, Sharp, SharpOptions } from 'sharp';
import { throwIfAborted } from '../common/abort.js';
import { BridgeError, messageOf } from '../common/errors.js';
import { f32Tensor, u8Tensor, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';

/** Where Pillow, and so ComfyUI, suspects a decompression bomb; counted over all frames here. */
export const MAX_PIXELS = 178_956_970;

export interface DecodedImage {
  /** `[B, H, W, 3]`: one entry per frame. */
  readonly rgb: U8Tensor;
  /** `[B, H, W]`, 255 is opaque; absent where the file has no transparency. */
  readonly alpha?: U8Tensor;
}

interface DecodeOptions {
  /** Names the image in messages; a path names itself. */
  readonly label?: string;
  readonly maxPixels?: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Decodes an image file, or the bytes of one.
 *
 * @throws {BridgeError} `IMAGE_INVALID`, `IMAGE_TOO_LARGE`, both naming the image and what to do.
 */
export async function decodeImage(source: string | Uint8Array, options: DecodeOptions = {}): Promise<DecodedImage> {
  const label = options.label ?? (typeof source === 'string' ? source : 'The image');
  const { default: sharp } = await import('sharp');
  const maxPixels = options.maxPixels ?? MAX_PIXELS;
  const open = (extra: SharpOptions = {}): Sharp =>
    sharp(source, { ignoreIcc: true, failOn: 'error', limitInputPixels: maxPixels, ...extra });
  try {
    const metadata = await open().metadata();
    throwIfAborted(options.signal);
    const { width, height, pages = 1 } = metadata;
    if (width * height * pages > maxPixels) throw tooLarge(label, width, height, pages, maxPixels);
    if (metadata.space === 'cmyk') return await decodeCmyk(open());
    const frames = pages > 1 ? await decodeFrames(open, metadata, pages) : [await decodeFrame(open().autoOrient())];
    throwIfAborted(options.signal);
    return joinFrames(frames);
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    if (/exceeds pixel limit/.test(messageOf(error))) {
      throw new BridgeError('IMAGE_TOO_LARGE', `${label} has more than ${maxPixels} pixels. Scale it down first.`, {
        cause: error,
      });
    }
    throw new BridgeError('IMAGE_INVALID', `${label} is no image that can be decoded: ${messageOf(error)}.`, {
      cause: error,
    });
  }
}

/** IMAGE of ComfyUI: u8 levels divided by 255, in fp32. */
export function toImageTensor({ shape, data }: U8Tensor): F32Tensor {
  const out = new Float32Array(data.length);
  for (let i = 0; i < data.length; i += 1) out[i] = (data[i] ?? 0) / 255;
  return f32Tensor(shape, out);
}

interface Frame {
  readonly width: number;
  readonly height: number;
  /** RGB or RGBA, interleaved. */
  readonly data: Uint8Array;
  readonly channels: number;
}

async function decodeFrame(image: Sharp): Promise<Frame> {
  const { data, info } = await image
    .toColourspace('srgb')
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true });
  return { width: info.width, height: info.height, channels: info.channels, data };
}

/** Frames of the first one's size, as ComfyUI keeps them; an animation's frames all have its size. */
async function decodeFrames(
  open: (extra?: SharpOptions) => Sharp,
  metadata: Metadata,
  pages: number,
): Promise<Frame[]> {
  if (metadata.pageHeight !== undefined) {
    const strip = await decodeFrame(open({ pages: -1 }));
    const height = metadata.pageHeight;
    const length = strip.width * height * strip.channels;
    return Array.from({ length: Math.floor(strip.height / height) }, (_none, i) => ({
      ...strip,
      height,
      data: strip.data.subarray(i * length, (i + 1) * length),
    }));
  }
  const frames: Frame[] = [];
  for (let page = 0; page < pages; page += 1) {
    const frame = await decodeFrame(open({ page }));
    const first = frames[0] ?? frame;
    if (frame.width === first.width && frame.height === first.height) frames.push(frame);
  }
  return frames;
}

/** Pillow's conversion: n = 255 - K, each channel n - mul(C, n), with Pillow's rounded product. */
async function decodeCmyk(image: Sharp): Promise<DecodedImage> {
  const oriented = image.autoOrient().pipelineColourspace('cmyk').toColourspace('cmyk');
  const { data, info } = await oriented.raw().toBuffer({ resolveWithObject: true });
  const pixels = info.width * info.height;
  const rgb = new Uint8Array(pixels * 3);
  for (let pixel = 0; pixel < pixels; pixel += 1) {
    const light = 255 - (data[pixel * info.channels + 3] ?? 0);
    for (let channel = 0; channel < 3; channel += 1) {
      const t = (data[pixel * info.channels + channel] ?? 0) * light + 128;
      rgb[pixel * 3 + channel] = Math.max(0, light - ((t + (t >> 8)) >> 8));
    }
  }
  return { rgb: u8Tensor([1, info.height, info.width, 3], rgb) };
}

function joinFrames(frames: readonly Frame[]): DecodedImage {
  const [first] = frames;
  if (first === undefined) throw new Error('the file has no frames');
  const { width, height, channels } = first;
  const shape = [frames.length, height, width] as const;
  const pixels = width * height;
  if (channels === 3 && frames.length === 1) return { rgb: u8Tensor([...shape, 3], first.data) };
  const rgb = new Uint8Array(frames.length * pixels * 3);
  const alpha = channels === 4 ? new Uint8Array(frames.length * pixels) : undefined;
  frames.forEach((frame, index) => {
    for (let pixel = 0; pixel < pixels; pixel += 1) {
      const from = pixel * channels;
      const to = (index * pixels + pixel) * 3;
      rgb[to] = frame.data[from] ?? 0;
      rgb[to + 1] = frame.data[from + 1] ?? 0;
      rgb[to + 2] = frame.data[from + 2] ?? 0;
      if (alpha !== undefined) alpha[index * pixels + pixel] = frame.data[from + 3] ?? 0;
    }
  });
  const joined = { rgb: u8Tensor([...shape, 3], rgb) };
  return alpha === undefined ? joined : { ...joined, alpha: u8Tensor(shape, alpha) };
}

function tooLarge(label: string, width: number, height: number, pages: number, maxPixels: number): BridgeError {
  const frames = pages > 1 ? ` in ${pages} frames` : '';
  return new BridgeError(
    'IMAGE_TOO_LARGE',
    `${label} is ${width}×${height}${frames}; the limit is ${maxPixels} pixels. Scale it down first.`,
    {
      details: { width, height, frames: pages, maxPixels },
    },
  );
}
