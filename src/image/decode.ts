/**
 * Image files and bytes to pixels, as ComfyUI's LoadImage sees them.
 *
 * EXIF orientation is applied, ICC profiles are ignored, alpha is dropped and never composited, 16-bit values lose their
 * low byte, CMYK goes through Pillow's formula, and the frames of an animation become a batch. One intended difference:
 * 16-bit grey, which ComfyUI 0.3.64 turns white through a defect of its own. Frames of an animated
 * AVIF, which the decoder cannot give, are refused.
 *
 * The decoder's buffer becomes the tensor wherever its bytes are in that order already: a picture needs little more
 * memory than its pixels. Loops over pixels run in steps that leave the thread free.
 *
 * Source: ComfyUI, nodes.py, `LoadImage`; measured against Pillow.
 */
import type { FileHandle } from 'node:fs/promises';
import type { Metadata, Sharp, SharpOptions } from 'sharp';
import { throwIfAborted } from '../common/abort.js';
import { BridgeError, messageOf, systemCodeOf } from '../common/errors.js';
import { openRegularFile } from '../common/regular-file.js';
import { f32Tensor, u8Tensor, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import { decodePngAnimation, readPngAnimation } from './apng.js';
import { decodeBmp, readBmpHeader } from './bmp.js';
import { cmykToRgb } from './cmyk.js';
import { readTransparentColour, type Colour } from './gif.js';
import { orientFrames } from './orientation.js';
import { HEAD_BYTES, sniffPicture, type ByteReader, type PictureFormat } from './picture-format.js';
import { inSlices } from './slices.js';

/** Where Pillow, and so ComfyUI, suspects a decompression bomb; counted over all frames here. */
export const MAX_PIXELS = 178_956_970;
/** Directories of a TIFF lie in a chain that is walked for each of them; no animation of a person has so many frames. */
const MAX_FRAMES = 4096;
/** Where the header of a PNG says grey (0), RGB (2), palette (3), grey and alpha (4), or RGBA (6). */
const PNG_COLOUR_TYPE = 25;

export interface DecodedImage {
  /** `[B, H, W, 3]`: one entry per frame. */
  readonly rgb: U8Tensor;
  /** `[B, H, W]`, 255 is opaque; absent where the file has no transparency. */
  readonly alpha?: U8Tensor;
}

interface DecodeOptions {
  /** Names the image in messages; a path names itself. */
  readonly label?: string;
  /** Limit of all frames together. */
  readonly maxPixels?: number;
  /** False spares the memory of an alpha that nobody wants. Default true. */
  readonly withAlpha?: boolean;
  readonly signal?: AbortSignal | undefined;
}

interface Source {
  readonly label: string;
  readonly format: PictureFormat;
  readonly maxPixels: number;
  readonly withAlpha: boolean;
  readonly signal: AbortSignal | undefined;
  readonly open: (extra?: SharpOptions) => Sharp;
  readonly read: ByteReader;
}

/**
 * Decodes an image file, or the bytes of one.
 *
 * @throws {BridgeError} `IMAGE_INVALID`, `IMAGE_TOO_LARGE`, both naming the image and what to do; `CANCELLED`.
 */
export async function decodeImage(source: string | Uint8Array, options: DecodeOptions = {}): Promise<DecodedImage> {
  const label = options.label ?? (typeof source === 'string' ? source : 'The image');
  const { maxPixels = MAX_PIXELS, withAlpha = true, signal } = options;
  throwIfAborted(signal);
  let file: FileHandle | undefined;
  try {
    file = typeof source === 'string' ? await openRegularFile(source) : undefined;
    const sizeBytes = (await file?.stat())?.size ?? 0;
    const read: ByteReader = async (position, length) => {
      if (file === undefined) return bytesOf(source, position, length);
      // A length that a file claims is not one that is there.
      const there = Math.min(length, Math.max(0, sizeBytes - position));
      const { bytesRead, buffer } = await file.read(Buffer.alloc(there), 0, there, position);
      return buffer.subarray(0, bytesRead);
    };
    const head = await read(0, HEAD_BYTES);
    const format = sniffPicture(head);
    if (typeof format !== 'string') throw invalid(label, `is ${format.refused}.`);
    const { default: sharp } = await import('sharp');
    const open = (extra: SharpOptions = {}): Sharp =>
      sharp(source, { ignoreIcc: true, failOn: 'error', limitInputPixels: maxPixels, ...extra });
    const keepsAlpha = withAlpha && !(format === 'png' && isOpaquePng(head));
    return await decode({ label, format, maxPixels, withAlpha: keepsAlpha, signal, open, read });
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    if (/exceeds pixel limit/.test(messageOf(error))) {
      throw new BridgeError('IMAGE_TOO_LARGE', `${label} has more than ${maxPixels} pixels. Scale it down first.`, {
        cause: error,
      });
    }
    if (systemCodeOf(error) === 'ENOENT') throw invalid(label, 'does not exist.', error);
    throw invalid(label, `is no image that can be decoded, or is damaged: ${messageOf(error)}.`, error);
  } finally {
    await file?.close();
  }
}

/** IMAGE of ComfyUI: u8 levels divided by 255, in fp32. */
export function toImageTensor({ shape, data }: U8Tensor): F32Tensor {
  const out = new Float32Array(data.length);
  for (let i = 0; i < data.length; i += 1) out[i] = (data[i] ?? 0) / 255;
  return f32Tensor(shape, out);
}

function bytesOf(source: string | Uint8Array, position: number, length: number): Uint8Array {
  return typeof source === 'string' ? new Uint8Array() : source.subarray(position, position + length);
}

/** Grey and RGB without an alpha channel: a colour that tRNS calls transparent is none to Pillow before it converts. */
function isOpaquePng(head: Uint8Array): boolean {
  return head[PNG_COLOUR_TYPE] === 0 || head[PNG_COLOUR_TYPE] === 2;
}

/** Interleaved pixels of frames of one size. */
interface Frames {
  readonly count: number;
  readonly width: number;
  readonly height: number;
  /** 3 or 4 */
  readonly channels: number;
  /** Ours to overwrite. */
  readonly data: Uint8Array;
}

async function decode(source: Source): Promise<DecodedImage> {
  const { format, open, signal } = source;
  if (format === 'bmp') return decodeBitmap(source);
  const metadata = await open().metadata();
  throwIfAborted(signal);
  if (metadata.format !== (format === 'avif' ? 'heif' : format)) throw new Error(`its content is ${metadata.format}`);
  const { width, height, pages = 1, pageHeight } = metadata;
  checkSize(source, width, height, 1);
  checkFrames(source, width, height, pages, pageHeight !== undefined);
  const animation = format === 'png' ? await decodeAnimatedPng(source, metadata) : undefined;
  if (animation !== undefined) return animation;
  if (metadata.space === 'cmyk' && pages === 1) return decodeCmyk(source);
  if (pages > 1 && pageHeight !== undefined) return decodeAnimation(source, metadata, pages, pageHeight);
  if (pages > 1) return split(await decodePages(source, pages), source);
  return split(await pixelsOf(open().autoOrient(), keepsAlpha(source)), source);
}

/** GIF decoders blacken what is transparent, which Pillow does not: its pixels are needed to tell where that is. */
function keepsAlpha({ format, withAlpha }: Source): boolean {
  return withAlpha || format === 'gif';
}

async function pixelsOf(image: Sharp, withAlpha: boolean): Promise<Frames> {
  const wanted = withAlpha ? image : image.removeAlpha();
  const { data, info } = await wanted
    .toColourspace('srgb')
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true });
  return { count: 1, width: info.width, height: info.height, channels: info.channels, data };
}

async function decodeBitmap(source: Source): Promise<DecodedImage> {
  const header = await readBmpHeader(source.read);
  const { width, height } = header;
  checkSize(source, width, height, 1);
  const { channels, data } = await decodeBmp(header, source.read, source.signal);
  return split({ count: 1, width, height, channels, data }, source);
}

/** All frames of an animation have the size of its canvas; they come as one strip, each oriented as the first. */
async function decodeAnimation(
  source: Source,
  { orientation = 1 }: Metadata,
  pages: number,
  pageHeight: number,
): Promise<DecodedImage> {
  const strip = await pixelsOf(source.open({ pages: -1 }), keepsAlpha(source));
  const count = Math.min(pages, Math.floor(strip.height / pageHeight));
  const length = strip.width * pageHeight * strip.channels;
  const frames = { ...strip, count, height: pageHeight, data: strip.data.subarray(0, count * length) };
  return split(await orientFrames(frames, orientation, source.signal), source);
}

/** Undefined for a PNG that stands still. */
async function decodeAnimatedPng(source: Source, { orientation = 1 }: Metadata): Promise<DecodedImage | undefined> {
  const { read, signal } = source;
  const animation = await readPngAnimation(read);
  if (animation === undefined) return undefined;
  const { width, height, frames } = animation;
  checkFrames(source, width, height, frames.length);
  const { default: sharp } = await import('sharp');
  const decodeFrame = async (png: Uint8Array): Promise<Frames> => {
    const image = sharp(png, { ignoreIcc: true, failOn: 'error', limitInputPixels: source.maxPixels });
    return pixelsOf(image.ensureAlpha(), true);
  };
  const data = await decodePngAnimation(animation, read, decodeFrame, signal);
  const whole = { count: frames.length, width, height, channels: 4, data };
  const isPaletteOnly = animation.palette !== undefined && animation.transparency === undefined;
  const withAlpha = source.withAlpha && !isPaletteOnly;
  return split(await orientFrames(whole, orientation, signal), { ...source, withAlpha });
}

/** Pages of the first one's size, as ComfyUI keeps them. */
async function decodePages(source: Source, pages: number): Promise<Frames> {
  const { open, withAlpha, signal } = source;
  const kept: number[] = [];
  let first: { width: number; height: number } | undefined;
  for (let page = 0; page < pages; page += 1) {
    throwIfAborted(signal);
    const { autoOrient: size } = await open({ page }).metadata();
    first ??= size;
    if (size.width === first.width && size.height === first.height) kept.push(page);
    checkSize(source, first.width, first.height, kept.length);
  }
  let joined: Frames | undefined;
  for (const [index, page] of kept.entries()) {
    throwIfAborted(signal);
    const { channels: stored } = joined ?? { channels: undefined };
    // Pages may differ in having alpha; the first one decides.
    const frame = await pixelsOf(
      stored === 4 ? open({ page }).autoOrient().ensureAlpha() : open({ page }).autoOrient(),
      withAlpha && stored !== 3,
    );
    joined ??= { ...frame, count: kept.length, data: new Uint8Array(frame.data.length * kept.length) };
    joined.data.set(frame.data, index * frame.data.length);
  }
  if (joined === undefined) throw new Error('the file has no frames');
  return joined;
}

async function decodeCmyk({ open, signal }: Source): Promise<DecodedImage> {
  const { data, width, height } = await cmykToRgb(open().autoOrient(), signal);
  return { rgb: u8Tensor([1, height, width, 3], data) };
}

/** Colours and alpha apart; colours move to the front of their own buffer. */
async function split(frames: Frames, { format, withAlpha, read, signal }: Source): Promise<DecodedImage> {
  const { count, width, height, channels, data } = frames;
  const pixels = count * width * height;
  if (channels === 3) return { rgb: u8Tensor([count, height, width, 3], data) };
  const hidden: Colour | undefined = format === 'gif' ? await readTransparentColour(read) : undefined;
  const alpha = withAlpha ? new Uint8Array(pixels) : undefined;
  const move = (begin: number, end: number): void => {
    for (let pixel = begin; pixel < end; pixel += 1) {
      const from = pixel * 4;
      const opacity = data[from + 3] ?? 0;
      const isHidden = hidden !== undefined && opacity === 0;
      data[pixel * 3] = isHidden ? hidden[0] : (data[from] ?? 0);
      data[pixel * 3 + 1] = isHidden ? hidden[1] : (data[from + 1] ?? 0);
      data[pixel * 3 + 2] = isHidden ? hidden[2] : (data[from + 2] ?? 0);
      if (alpha !== undefined) alpha[pixel] = opacity;
    }
  };
  await inSlices(pixels, 4, move, signal);
  const rgb = u8Tensor([count, height, width, 3], data.subarray(0, pixels * 3));
  // The decoder gives every animated GIF an alpha channel, Pillow only those with transparency.
  const isOpaque = format === 'gif' && count > 1 && alpha?.every((opacity) => opacity === 255) === true;
  return alpha === undefined || isOpaque ? { rgb } : { rgb, alpha: u8Tensor([count, height, width], alpha) };
}

function checkFrames(source: Source, width: number, height: number, frames: number, haveOneSize = true): void {
  if (frames > MAX_FRAMES) throw tooLarge(source, `${source.label} has ${frames} frames; the limit is ${MAX_FRAMES}`);
  if (haveOneSize) checkSize(source, width, height, frames);
}

function checkSize(source: Source, width: number, height: number, frames: number): void {
  if (width * height * frames <= source.maxPixels) return;
  const times = frames > 1 ? ` in ${frames} frames` : '';
  const message = `${source.label} is ${width}×${height}${times}; the limit is ${source.maxPixels} pixels`;
  throw tooLarge(source, message, { width, height, frames });
}

function tooLarge({ maxPixels }: Source, problem: string, details: Record<string, unknown> = {}): BridgeError {
  return new BridgeError('IMAGE_TOO_LARGE', `${problem}. Scale it down first.`, { details: { ...details, maxPixels } });
}

function invalid(label: string, problem: string, cause?: unknown): BridgeError {
  return new BridgeError('IMAGE_INVALID', `${label} ${problem}`, cause === undefined ? {} : { cause });
}
