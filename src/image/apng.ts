/**
 * Frames of an animated PNG, which the decoder does not know: each becomes a PNG of its own, is decoded, and is put on the
 * canvas of the frames before it.
 *
 * Source: the PNG specification, third edition; where Pillow differs from it, Pillow (a default image is a frame, what
 * is blended is blended in all four channels, a cleared place has the palette's first colour), since ComfyUI shows that.
 */
import { crc32 } from 'node:zlib';
import { throwIfAborted } from '../common/abort.js';
import type { ByteReader } from './picture-format.js';
import { inSlices } from './slices.js';

interface AnimationFrame {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
  /** What becomes of the frame's place before the next one. */
  readonly disposal: 'keep' | 'clear' | 'restore';
  /** Whether the frame is laid over what is there, or replaces it. */
  readonly isOver: boolean;
  /** Where its compressed pixels lie. */
  readonly data: readonly { readonly position: number; readonly length: number }[];
}

export interface PngAnimation {
  readonly width: number;
  readonly height: number;
  readonly frames: readonly AnimationFrame[];
  /** IHDR's bit depth, colour type, and how pixels are packed. */
  readonly format: Uint8Array;
  readonly palette: Uint8Array | undefined;
  readonly transparency: Uint8Array | undefined;
}

/** RGBA, interleaved. */
type DecodeFrame = (png: Uint8Array) => Promise<{ readonly width: number; readonly height: number; data: Uint8Array }>;

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
/** Each is one small read; files of honest writers have a few per frame. */
const MAX_CHUNKS = 65_536;
const MAX_PALETTE_BYTES = 256 * 3;
const GREY = 0;
const DISPOSALS = ['keep', 'clear', 'restore'] as const;

/** Reads where the frames of a PNG lie; undefined for a PNG without an animation. @throws {Error} when it is broken */
export async function readPngAnimation(read: ByteReader): Promise<PngAnimation | undefined> {
  const header = viewOf(await read(SIGNATURE.length + 8, 13));
  if (header.byteLength < 13) return undefined;
  const [width, height] = [header.getUint32(0), header.getUint32(4)];
  const format = new Uint8Array(header.buffer, header.byteOffset + 8, 5);
  const frames: (AnimationFrame & { data: { position: number; length: number }[] })[] = [];
  let claimed = 0;
  let palette: Uint8Array | undefined;
  let transparency: Uint8Array | undefined;
  let position = SIGNATURE.length;
  for (let chunk = 0; ; chunk += 1) {
    if (chunk === MAX_CHUNKS) throw new Error(`it has more than ${MAX_CHUNKS} chunks`);
    const bytes = await read(position, 8 + 26);
    if (bytes.byteLength < 8) break;
    const head = viewOf(bytes);
    const length = head.getUint32(0);
    const type = String.fromCharCode(...bytes.subarray(4, 8));
    const begin = position + 8;
    if (type === 'acTL' && bytes.byteLength >= 12) claimed = head.getUint32(8);
    else if (type === 'PLTE') palette = await read(begin, Math.min(length, MAX_PALETTE_BYTES));
    // Pillow ignores the transparent level of grey pictures while it blends.
    else if (type === 'tRNS' && format[1] !== GREY)
      transparency = await read(begin, Math.min(length, MAX_PALETTE_BYTES));
    else if (type === 'fcTL' && bytes.byteLength >= 34) {
      if (frames.length === claimed && claimed > 0) break;
      frames.push(frameOf(head, width, height));
    } else if (type === 'IDAT') {
      if (claimed === 0) return undefined;
      // A default image that is no frame of the animation is one for Pillow.
      if (frames.length === 0) {
        claimed += 1;
        frames.push({ left: 0, top: 0, width, height, disposal: 'keep', isOver: false, data: [] });
      }
      if (frames.length === 1) frames[0]?.data.push({ position: begin, length });
    } else if (type === 'fdAT') frames.at(-1)?.data.push({ position: begin + 4, length: length - 4 });
    else if (type === 'IEND') break;
    position = begin + length + 4;
  }
  if (frames.length < claimed) throw new Error(`it has ${frames.length} of the ${claimed} frames that it claims`);
  if (frames.length < 2) return undefined;
  return { width, height, frames, format, palette, transparency };
}

function frameOf(head: DataView, canvasWidth: number, canvasHeight: number): AnimationFrame & { data: [] } {
  const [width, height, left, top] = [head.getUint32(12), head.getUint32(16), head.getUint32(20), head.getUint32(24)];
  if (width < 1 || height < 1 || left + width > canvasWidth || top + height > canvasHeight) {
    throw new Error('a frame of its animation lies outside of it');
  }
  const disposal = DISPOSALS[head.getUint8(32)] ?? 'keep';
  return { left, top, width, height, disposal, isOver: head.getUint8(33) === 1, data: [] };
}

/** The canvas after each frame, one behind the other: RGBA `[frames, height, width, 4]`. */
export async function decodePngAnimation(
  animation: PngAnimation,
  read: ByteReader,
  decode: DecodeFrame,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const { width, height, frames } = animation;
  const length = width * height * 4;
  const out = new Uint8Array(frames.length * length);
  const canvas = new Uint8Array(length);
  for (const [index, frame] of frames.entries()) {
    throwIfAborted(signal);
    const pixels = await decode(await pngOf(animation, frame, read));
    if (pixels.width !== frame.width || pixels.height !== frame.height) throw new Error('a frame has another size');
    // The first frame has nothing to go back to.
    const disposal = index === 0 && frame.disposal === 'restore' ? 'clear' : frame.disposal;
    const before = disposal === 'restore' ? cut(canvas, width, frame) : undefined;
    await place(canvas, width, frame, pixels.data, index > 0 && frame.isOver, signal);
    out.set(canvas, index * length);
    if (before !== undefined) await place(canvas, width, frame, before, false, signal);
    if (disposal === 'clear') clear(canvas, width, frame, animation);
  }
  return out;
}

/** One frame as a PNG. */
async function pngOf(animation: PngAnimation, frame: AnimationFrame, read: ByteReader): Promise<Uint8Array> {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(frame.width, 0);
  header.writeUInt32BE(frame.height, 4);
  header.set(animation.format, 8);
  const { palette, transparency } = animation;
  const parts: Uint8Array[] = [SIGNATURE, chunkOf('IHDR', header)];
  if (palette !== undefined) parts.push(chunkOf('PLTE', palette));
  if (transparency !== undefined) parts.push(chunkOf('tRNS', transparency));
  for (const { position, length } of frame.data) parts.push(chunkOf('IDAT', await read(position, length)));
  parts.push(chunkOf('IEND', Buffer.alloc(0)));
  return Buffer.concat(parts);
}

function chunkOf(type: string, data: Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const out = Buffer.alloc(body.length + 8);
  out.writeUInt32BE(data.length, 0);
  body.copy(out, 4);
  out.writeUInt32BE(crc32(body), body.length + 4);
  return out;
}

function cut(canvas: Uint8Array, canvasWidth: number, { left, top, width, height }: AnimationFrame): Uint8Array {
  const out = new Uint8Array(width * height * 4);
  for (let y = 0; y < height; y += 1) {
    const from = ((top + y) * canvasWidth + left) * 4;
    out.set(canvas.subarray(from, from + width * 4), y * width * 4);
  }
  return out;
}

async function place(
  canvas: Uint8Array,
  canvasWidth: number,
  { left, top, width, height }: AnimationFrame,
  pixels: Uint8Array,
  isOver: boolean,
  signal: AbortSignal | undefined,
): Promise<void> {
  const line = width * 4;
  const placeRow = (y: number): void => {
    const to = ((top + y) * canvasWidth + left) * 4;
    if (!isOver) canvas.set(pixels.subarray(y * line, (y + 1) * line), to);
    for (let i = 0; isOver && i < line; i += 1) {
      const opacity = pixels[y * line + (i | 3)] ?? 0;
      const sum = (canvas[to + i] ?? 0) * (255 - opacity) + (pixels[y * line + i] ?? 0) * opacity + 128;
      canvas[to + i] = ((sum >> 8) + sum) >> 8;
    }
  };
  const placeRows = (begin: number, end: number): void => {
    for (let y = begin; y < end; y += 1) placeRow(y);
  };
  await inSlices(height, line, placeRows, signal);
}

function clear(
  canvas: Uint8Array,
  canvasWidth: number,
  { left, top, width, height }: AnimationFrame,
  { palette, transparency }: PngAnimation,
): void {
  const [red = 0, green = 0, blue = 0] = palette ?? [];
  const alpha = palette === undefined ? 0 : (transparency?.[0] ?? 255);
  const row = new Uint8Array(width * 4);
  for (let i = 0; i < row.length; i += 4) row.set([red, green, blue, alpha], i);
  for (let y = 0; y < height; y += 1) canvas.set(row, ((top + y) * canvasWidth + left) * 4);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
