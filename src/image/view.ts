/**
 * Stored pictures in other forms: previews, single channels, and the alpha of one picture on another.
 *
 * Alpha is dropped or moved, never composited; orientation and colour profiles are left as they are, as Pillow leaves
 * them when it saves. Of an animation only the first frame is taken.
 *
 * Source: ComfyUI 0.3.64, server.py, `/view` and `/upload/mask`.
 */
import { open as openFile } from 'node:fs/promises';
import type { Sharp } from 'sharp';
import { BridgeError, messageOf } from '../common/errors.js';
import { cmykToRgb } from './cmyk.js';
import { readTransparentColour } from './gif.js';
import { HEAD_BYTES, sniffPicture, type ByteReader } from './picture-format.js';
import { insertPngChunks, readPngTextChunks } from './png-chunks.js';

export interface PreviewOptions {
  readonly format: 'webp' | 'jpeg';
  /** 0 to 100; higher counts as 100. */
  readonly quality: number;
  readonly dropAlpha: boolean;
}

const MAX_PIXELS = 178_956_970; // where Pillow suspects a decompression bomb
const PNG_COMPRESSION = 4; // of saved images, as ComfyUI has it
/** Colour type of a PNG that has alpha as a channel, and where its header says so. */
const PNG_RGBA = 6;
const PNG_COLOUR_TYPE = 25;
/** `G` */
const GIF_BEGINS = 0x47;
const NOTHING = { buffer: Buffer.alloc(0), bytesRead: 0 };

/** A picture encoded again at full size. @throws {BridgeError} `IMAGE_INVALID` */
export async function encodePreview(source: string | Uint8Array, options: PreviewOptions): Promise<Buffer> {
  return withImage(source, (image) => {
    const shown = options.dropAlpha || options.format === 'jpeg' ? image.removeAlpha() : image;
    // Pillow takes 0; the encoders begin at 1.
    const quality = Math.min(100, Math.max(1, options.quality));
    return (options.format === 'jpeg' ? shown.jpeg({ quality }) : shown.webp({ quality })).toBuffer();
  });
}

/**
 * `rgb`: a PNG without alpha. `alpha`: an RGBA PNG, black, with the alpha of the picture. As in ComfyUI that is the alpha
 * channel of RGBA pictures; all others, those with a palette among them, are opaque.
 *
 * @throws {BridgeError} `IMAGE_INVALID`
 */
export async function encodeChannels(path: string, channels: 'rgb' | 'alpha'): Promise<Buffer> {
  if (channels === 'rgb') return withImage(path, (image) => image.removeAlpha().png().toBuffer());
  return withImage(path, async (image, open, head) => {
    const isRgba = await hasAlphaChannel(image, head);
    const { data, info } = await rgbaPixels(image);
    for (let i = 0; i < data.length; i += 4) {
      data.fill(0, i, i + 3);
      if (!isRgba) data[i + 3] = 255;
    }
    return open(data, info).png().toBuffer();
  });
}

/**
 * The original with the alpha of another picture of its size, as PNG with the original's text chunks.
 *
 * @throws {BridgeError} `IMAGE_INVALID` also when the sizes differ.
 */
export async function replaceAlpha(original: Uint8Array, mask: Uint8Array): Promise<Buffer> {
  const { data: alpha, info: maskInfo } = await withImage(mask, rgbaPixels);
  const png = await withImage(original, async (image, open) => {
    const { data, info } = await rgbaPixels(image);
    if (info.width !== maskInfo.width || info.height !== maskInfo.height) {
      throw new BridgeError(
        'IMAGE_INVALID',
        `The mask is ${maskInfo.width}×${maskInfo.height}, the original ${info.width}×${info.height}: they must be of one size.`,
      );
    }
    for (let i = 3; i < data.length; i += 4) data[i] = alpha[i] ?? 0;
    return open(data, info).png({ compressionLevel: PNG_COMPRESSION }).toBuffer();
  });
  return insertPngChunks(png, readPngTextChunks(original));
}

/** What Pillow opens as RGBA. */
async function hasAlphaChannel(image: Sharp, head: Uint8Array): Promise<boolean> {
  const { format, channels, hasAlpha } = await image.metadata();
  if (head[0] === GIF_BEGINS) return false;
  if (format === 'png') return head[PNG_COLOUR_TYPE] === PNG_RGBA;
  return hasAlpha && channels === 4;
}

interface Size {
  readonly width: number;
  readonly height: number;
}
type OpenPixels = (pixels: Uint8Array, size: Size, channels?: 3 | 4) => Sharp;
type Use<T> = (image: Sharp, open: OpenPixels, head: Uint8Array) => Promise<T>;

async function rgbaPixels(image: Sharp): Promise<{ data: Buffer; info: Size }> {
  return image.toColourspace('srgb').ensureAlpha().raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
}

/** Opens a picture of a format that is read; others are refused before they are rendered. CMYK comes as RGB. */
async function withImage<T>(source: string | Uint8Array, use: Use<T>): Promise<T> {
  const label = typeof source === 'string' ? source : 'The upload';
  const file = typeof source === 'string' ? await openFile(source, 'r').catch(() => undefined) : undefined;
  const read: ByteReader = async (position, length) => {
    if (typeof source !== 'string') return source.subarray(position, position + length);
    const { buffer, bytesRead } = (await file?.read(Buffer.alloc(length), 0, length, position)) ?? NOTHING;
    return buffer.subarray(0, bytesRead);
  };
  try {
    const head = await read(0, HEAD_BYTES);
    const format = sniffPicture(head);
    if (typeof format !== 'string') throw new BridgeError('IMAGE_INVALID', `${label} is ${format.refused}.`);
    const { default: sharp } = await import('sharp');
    const open: OpenPixels = (pixels, { width, height }, channels = 4) =>
      sharp(pixels, { raw: { width, height, channels } });
    const image = sharp(source, { ignoreIcc: true, failOn: 'error', limitInputPixels: MAX_PIXELS });
    if ((await image.metadata()).space === 'cmyk') {
      const rgb = await cmykToRgb(image);
      return await use(open(rgb.data, rgb, 3), open, head);
    }
    const hidden = format === 'gif' ? await readTransparentColour(read) : undefined;
    if (hidden === undefined) return await use(image, open, head);
    // The decoder blackens what is transparent; Pillow keeps its colour.
    const { data, info } = await rgbaPixels(image);
    for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 0) data.set(hidden, i);
    return await use(open(data, info), open, head);
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    throw new BridgeError('IMAGE_INVALID', `${label} is no image that can be decoded: ${messageOf(error)}.`, {
      cause: error,
    });
  } finally {
    await file?.close();
  }
}
