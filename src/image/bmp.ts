/**
 * BMP pictures, which the decoder does not know.
 *
 * All headers, depths and packings that Pillow reads, and so ComfyUI: palettes, 16 bit, masks, run lengths; the fourth
 * byte of 32 bits is alpha only where a mask says so. What Pillow refuses is refused.
 *
 * Source: Microsoft's BITMAPINFOHEADER to BITMAPV5HEADER; where Pillow differs (colours of 5 bits are v·255/31, cut), Pillow.
 */
import type { ByteReader } from './picture-format.js';
import { inSlices } from './slices.js';

const FILE_HEADER_BYTES = 14;
const OS2_HEADER_BYTES = 12;
const HEADER_BYTES = [OS2_HEADER_BYTES, 40, 52, 56, 64, 108, 124] as const;
const MAX_PALETTE_COLOURS = 256;
const RAW = 0;
const RLE8 = 1;
const RLE4 = 2;
const BITFIELDS = 3;

/** Where the channels of a pixel lie. */
type Masks = readonly [red: number, green: number, blue: number, alpha: number];

const MASKS_32: readonly Masks[] = [
  [0xff0000, 0xff00, 0xff, 0],
  [0xff000000, 0xff0000, 0xff00, 0],
  [0xff000000, 0xff00, 0xff, 0],
  [0xff000000, 0xff0000, 0xff00, 0xff],
  [0xff, 0xff00, 0xff0000, 0xff000000],
  [0xff0000, 0xff00, 0xff, 0xff000000],
  [0xff000000, 0xff00, 0xff, 0xff0000],
];
const BGRX: Masks = [0xff0000, 0xff00, 0xff, 0];
const BGRA: Masks = [0xff0000, 0xff00, 0xff, 0xff000000];
const RGB565: Masks = [0xf800, 0x7e0, 0x1f, 0];
const RGB555: Masks = [0x7c00, 0x3e0, 0x1f, 0];

export interface BmpHeader {
  readonly width: number;
  readonly height: number;
  readonly hasAlpha: boolean;
  readonly bits: number;
  readonly compression: number;
  readonly isTopDown: boolean;
  readonly masks: Masks;
  /** RGB triples; empty for pictures without a palette. */
  readonly palette: Uint8Array;
  /** Where the pixels begin in the file. */
  readonly offset: number;
}

/** Reads what comes before the pixels. @throws {Error} when it is broken, or is what Pillow does not read either */
export async function readBmpHeader(read: ByteReader): Promise<BmpHeader> {
  const file = viewOf(await read(0, FILE_HEADER_BYTES + 4), FILE_HEADER_BYTES + 4);
  const headerBytes = file.getUint32(FILE_HEADER_BYTES, true);
  if (!HEADER_BYTES.some((known) => known === headerBytes)) throw new Error(`its header is ${headerBytes} bytes long`);
  const header = viewOf(await read(FILE_HEADER_BYTES, headerBytes), headerBytes);
  const isOs2 = headerBytes === OS2_HEADER_BYTES;
  const storedHeight = isOs2 ? header.getUint16(6, true) : header.getInt32(8, true);
  const width = isOs2 ? header.getUint16(4, true) : header.getInt32(4, true);
  const height = Math.abs(storedHeight);
  if (width < 1 || height < 1) throw new Error(`its size is ${width}×${storedHeight}`);
  const bits = header.getUint16(isOs2 ? 10 : 14, true);
  const compression = isOs2 ? RAW : header.getUint32(16, true);
  checkPacking(bits, compression);
  const wantsMasks = compression === BITFIELDS;
  // Headers of 40 bytes have their three masks behind them.
  const masksAfter = wantsMasks && headerBytes < 52 ? 12 : 0;
  const masks = wantsMasks
    ? await readMasks(read, bits, headerBytes >= 56 && headerBytes !== 64)
    : bits === 16
      ? RGB555
      : BGRX;
  const afterHeader = FILE_HEADER_BYTES + headerBytes + masksAfter;
  const palette =
    bits <= 8 ? await readPalette(read, afterHeader, coloursOf(header, bits, isOs2), isOs2 ? 3 : 4) : none;
  const claimed = file.getUint32(10, true);
  const paletteBytes = (palette.length / 3) * (isOs2 ? 3 : 4);
  const offset = claimed === 0 || claimed === FILE_HEADER_BYTES + headerBytes ? afterHeader + paletteBytes : claimed;
  const hasAlpha = masks[3] !== 0;
  return { width, height, hasAlpha, bits, compression, isTopDown: storedHeight < 0, masks, palette, offset };
}

const none = new Uint8Array();

function checkPacking(bits: number, compression: number): void {
  const depths: Readonly<Record<number, readonly number[]>> = {
    [RAW]: [1, 4, 8, 16, 24, 32],
    [RLE8]: [8],
    [RLE4]: [4],
    [BITFIELDS]: [16, 24, 32],
  };
  const known = depths[compression];
  if (known === undefined) throw new Error(`its compression has the unknown number ${compression}`);
  if (!known.includes(bits)) throw new Error(`it has ${bits} bits per pixel, with compression ${compression}`);
}

function coloursOf(header: DataView, bits: number, isOs2: boolean): number {
  const stated = isOs2 ? 0 : header.getUint32(32, true);
  return stated === 0 ? 2 ** bits : Math.min(stated, MAX_PALETTE_COLOURS);
}

async function readMasks(read: ByteReader, bits: number, hasAlphaMask: boolean): Promise<Masks> {
  const stored = viewOf(await read(FILE_HEADER_BYTES + 40, hasAlphaMask ? 16 : 12), hasAlphaMask ? 16 : 12);
  const [red, green, blue] = [0, 4, 8].map((at) => stored.getUint32(at, true));
  const masks: Masks = [red ?? 0, green ?? 0, blue ?? 0, hasAlphaMask ? stored.getUint32(12, true) : 0];
  const known = bits === 32 ? MASKS_32 : bits === 24 ? [BGRX] : [RGB565, RGB555];
  // Depths of less than 32 bits have no alpha, whatever the header says.
  const wanted: Masks = bits === 32 ? masks : [masks[0], masks[1], masks[2], 0];
  if (bits === 32 && masks.every((mask) => mask === 0)) return BGRA;
  const found = known.find((candidate) => candidate.every((mask, i) => mask === wanted[i]));
  if (found === undefined) throw new Error(`its colour masks are ${masks.map((mask) => mask.toString(16)).join(', ')}`);
  return found;
}

async function readPalette(read: ByteReader, position: number, colours: number, stride: number): Promise<Uint8Array> {
  const stored = await read(position, colours * stride);
  const palette = new Uint8Array(colours * 3);
  for (let colour = 0; colour < Math.min(colours, Math.floor(stored.length / stride)); colour += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      palette[colour * 3 + channel] = stored[colour * stride + 2 - channel] ?? 0;
    }
  }
  return palette;
}

/**
 * Decodes the pixels.
 *
 * @returns u8 `[H, W, C]`, RGB, or RGBA where the header has an alpha mask.
 * @throws {Error} when the file ends before its last row; {BridgeError} `CANCELLED`.
 */
export async function decodeBmp(
  header: BmpHeader,
  read: ByteReader,
  signal: AbortSignal | undefined,
): Promise<{ readonly channels: 3 | 4; readonly data: Uint8Array }> {
  const { width, height, bits, compression, isTopDown, hasAlpha, offset } = header;
  const channels = hasAlpha ? 4 : 3;
  const isPacked = compression === RLE4 || compression === RLE8;
  const rowBytes = isPacked ? width : Math.ceil((width * bits) / 32) * 4;
  const stored = isPacked
    ? await unpackRuns(header, await read(offset, maxRunBytes(header)), signal)
    : await read(offset, rowBytes * height);
  if (stored.length < rowBytes * (height - 1) + Math.ceil((width * (isPacked ? 8 : bits)) / 8)) {
    throw new Error('it ends before its last row of pixels');
  }
  const data = new Uint8Array(width * height * channels);
  const readPixel = isPacked ? paletteReader(header, 8) : bits <= 8 ? paletteReader(header, bits) : maskReader(header);
  const copyRows = (begin: number, end: number): void => {
    for (let row = begin; row < end; row += 1) {
      const from = (isTopDown ? row : height - 1 - row) * rowBytes;
      for (let x = 0; x < width; x += 1) readPixel(stored, from, x, data, (row * width + x) * channels);
    }
  };
  await inSlices(height, width * channels, copyRows, signal);
  return { channels, data };
}

type PixelReader = (stored: Uint8Array, rowStart: number, x: number, out: Uint8Array, to: number) => void;

function paletteReader({ palette }: BmpHeader, bits: number): PixelReader {
  const perByte = 8 / bits;
  const mask = 2 ** bits - 1;
  return (stored, rowStart, x, out, to) => {
    const byte = stored[rowStart + Math.floor(x / perByte)] ?? 0;
    const index = (byte >> ((perByte - 1 - (x % perByte)) * bits)) & mask;
    // An index without a colour is black.
    for (let channel = 0; channel < 3; channel += 1) out[to + channel] = palette[index * 3 + channel] ?? 0;
  };
}

function maskReader({ bits, masks }: BmpHeader): PixelReader {
  const bytes = bits / 8;
  const fields = masks
    .filter((mask) => mask !== 0)
    .map((mask) => {
      const shift = 31 - Math.clz32(mask & -mask);
      return { shift, levels: mask >>> shift };
    });
  return (stored, rowStart, x, out, to) => {
    let value = 0;
    for (let i = bytes - 1; i >= 0; i -= 1) value = value * 256 + (stored[rowStart + x * bytes + i] ?? 0);
    for (const [channel, { shift, levels }] of fields.entries()) {
      out[to + channel] = Math.floor((((value >>> shift) & levels) * 255) / levels);
    }
  };
}

/** A run is two bytes for at least one pixel; literal ones and line ends cost no more than four a pixel. */
function maxRunBytes({ width, height }: BmpHeader): number {
  return 4 * (width + 1) * height + 4;
}

/**
 * Run lengths to one index per byte, rows in the order of the file; pixels that are skipped have index 0.
 *
 * As Pillow: a run ends with its row, literal pixels go on into the next, and the end of a row that is full ends nothing.
 */
async function unpackRuns(
  { width, height, compression }: BmpHeader,
  packed: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const out = new Uint8Array(width * height);
  const isRle4 = compression === RLE4;
  let x = 0;
  let filled = 0;
  let at = 0;
  const step = (): void => {
    const [count = 0, value = 0] = packed.subarray(at, at + 2);
    at += 2;
    if (count > 0) {
      const fitting = Math.max(0, Math.min(count, width - x));
      for (let i = 0; i < fitting; i += 1) out[filled + i] = isRle4 ? nibble(value, i) : value;
      filled += fitting;
      x += fitting;
    } else if (value === 0) {
      filled = Math.ceil(filled / width) * width;
      x = 0;
    } else if (value === 1) {
      at = packed.length;
    } else if (value === 2) {
      filled += (packed[at] ?? 0) + (packed[at + 1] ?? 0) * width;
      x = filled % width;
      at += 2;
    } else {
      for (let i = 0; i < value; i += 1) {
        out[filled + i] = isRle4 ? nibble(packed[at + (i >> 1)] ?? 0, i) : (packed[at + i] ?? 0);
      }
      filled += value;
      x += value;
      // Literal pixels take whole words.
      at += Math.ceil((isRle4 ? Math.ceil(value / 2) : value) / 2) * 2;
    }
  };
  const steps = Math.ceil(packed.length / 2);
  const unpack = (begin: number, end: number): void => {
    for (let i = begin; i < end && at + 1 < packed.length && filled < out.length; i += 1) step();
  };
  await inSlices(steps, 64, unpack, signal);
  if (filled < out.length) throw new Error('it ends before its last row of pixels');
  return out;
}

const nibble = (byte: number, i: number): number => (i % 2 === 0 ? byte >> 4 : byte & 15);

function viewOf(bytes: Uint8Array, wanted: number): DataView {
  if (bytes.length < wanted) throw new Error('it ends inside its header');
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
