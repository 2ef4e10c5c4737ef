/** Image files with parts of any content: huge claims, broken chunks, metadata that makes no sense. All are small. */
import { crc32, deflateSync } from 'node:zlib';

const PNG_SIGNATURE = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1');
const PNG_HEADER_END = 33;

export function pngChunk(type: string, data: Buffer | string, crc?: number): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), Buffer.from(data)]);
  const out = Buffer.alloc(body.length + 8);
  out.writeUInt32BE(body.length - 4, 0);
  body.copy(out, 4);
  out.writeUInt32BE(crc ?? crc32(body), body.length + 4);
  return out;
}

interface PngClaim {
  readonly width: number;
  readonly height: number;
  readonly depth?: number;
  readonly colour?: number;
  readonly interlace?: number;
}

/** A PNG that claims a size and holds a few zero bytes of pixels. */
export function pngClaiming({ width, height, depth = 8, colour = 2, interlace = 0 }: PngClaim): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([depth, colour, 0, 0, interlace], 8);
  return Buffer.concat([
    PNG_SIGNATURE,
    pngChunk('IHDR', header),
    pngChunk('IDAT', deflateSync(Buffer.alloc(1000))),
    pngChunk('IEND', ''),
  ]);
}

/** A sound PNG with further chunks behind its header. */
export function pngWith(png: Buffer, ...chunks: readonly Buffer[]): Buffer {
  return Buffer.concat([png.subarray(0, PNG_HEADER_END), ...chunks, png.subarray(PNG_HEADER_END)]);
}

/** A sound JPEG with one further segment behind its first marker. */
export function jpegWith(jpeg: Buffer, marker: number, payload: Buffer, claimedLength?: number): Buffer {
  const head = Buffer.from([0xff, marker, 0, 0]);
  head.writeUInt16BE(claimedLength ?? payload.length + 2, 2);
  return Buffer.concat([jpeg.subarray(0, 2), head, payload, jpeg.subarray(2)]);
}

/** A sound JPEG whose frame header claims another size. */
export function jpegClaiming(jpeg: Buffer, width: number, height: number): Buffer {
  const out = Buffer.from(jpeg);
  let place = 2;
  while (out[place + 1] !== 0xc0 && out[place + 1] !== 0xc2) place += 2 + out.readUInt16BE(place + 2);
  out.writeUInt16BE(height, place + 5);
  out.writeUInt16BE(width, place + 7);
  return out;
}

/** A GIF with a canvas of this size and square frames that hold one pixel. */
export function gifClaiming(width: number, height: number, frames: number, frameSide = 1): Buffer {
  const header = Buffer.from('GIF89a\0\0\0\0\x80\0\0\0\0\0\xff\xff\xff', 'latin1');
  header.writeUInt16LE(width, 6);
  header.writeUInt16LE(height, 8);
  const frame = Buffer.from('\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0', 'latin1');
  frame.writeUInt16LE(frameSide, 5);
  frame.writeUInt16LE(frameSide, 7);
  return Buffer.concat([header, ...Array.from({ length: frames }, () => frame), Buffer.from(';')]);
}

/** A RIFF file with these WebP chunks. */
export function webpOf(...chunks: readonly (readonly [type: string, data: Buffer])[]): Buffer {
  const parts = chunks.map(([type, data]) => {
    const head = Buffer.from(`${type}\0\0\0\0`, 'latin1');
    head.writeUInt32LE(data.length, 4);
    return Buffer.concat([head, data, Buffer.alloc(data.length % 2)]);
  });
  const body = Buffer.concat([Buffer.from('WEBP'), ...parts]);
  const head = Buffer.from('RIFF\0\0\0\0', 'latin1');
  head.writeUInt32LE(body.length, 4);
  return Buffer.concat([head, body]);
}

/** The header of an extended WebP with a canvas of this size. */
export function webpCanvas(width: number, height: number, flags = 0): Buffer {
  const out = Buffer.alloc(10);
  out[0] = flags;
  out.writeUIntLE(width - 1, 4, 3);
  out.writeUIntLE(height - 1, 7, 3);
  return out;
}

/** Tag, type, count, value. */
export type TiffEntry = readonly [tag: number, type: number, count: number, value: number];

/** One directory at byte 8, and where the next one is said to be: EXIF data, or the header of a TIFF. */
export function tiffOf(entries: readonly TiffEntry[], next = 0, tail: Buffer = Buffer.alloc(0)): Buffer {
  const out = Buffer.alloc(8 + 2 + entries.length * 12 + 4);
  out.write('II*\0', 'latin1');
  out.writeUInt32LE(8, 4);
  out.writeUInt16LE(entries.length, 8);
  entries.forEach(([tag, type, count, value], i) => {
    const place = 10 + i * 12;
    out.writeUInt16LE(tag, place);
    out.writeUInt16LE(type, place + 2);
    out.writeUInt32LE(count, place + 4);
    out.writeUInt32LE(value, place + 8);
  });
  out.writeUInt32LE(next, out.length - 4);
  return Buffer.concat([out, tail]);
}

/** A grey TIFF that claims a size, in one strip without data. */
export function tiffClaiming(width: number, height: number, next = 0): Buffer {
  const strip = 8 + 2 + 9 * 12 + 4;
  return tiffOf(
    [
      [0x100, 4, 1, width],
      [0x101, 4, 1, height],
      [0x102, 3, 1, 8],
      [0x103, 3, 1, 1],
      [0x106, 3, 1, 1],
      [0x111, 4, 1, strip],
      [0x115, 3, 1, 1],
      [0x116, 4, 1, height],
      [0x117, 4, 1, 64],
    ],
    next,
    Buffer.alloc(64),
  );
}

/** EXIF data as a JPEG segment has it. */
export function exifOf(...args: Parameters<typeof tiffOf>): Buffer {
  return Buffer.concat([Buffer.from('Exif\0\0', 'latin1'), tiffOf(...args)]);
}
