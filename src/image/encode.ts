/** Pixels to image files. */
import { crc32 } from 'node:zlib';
import type { F32Tensor } from '../tensor/tensor.js';

/** PNG compression of saved images (4) and previews (1), as ComfyUI has them. */
type PngCompression = 1 | 4;

const SIGNATURE_AND_HEADER_BYTES = 33; // 8 of signature, 25 of the IHDR chunk

/**
 * One image of a batch as RGB or RGBA PNG.
 *
 * @param images `[B, H, W, 3 or 4]` in 0..1: scaled by 255, clipped and truncated, as ComfyUI saves.
 * @param texts Text chunks, keyed by keyword.
 */
export async function encodePng(
  images: F32Tensor,
  index: number,
  texts: ReadonlyMap<string, string>,
  compressionLevel: PngCompression,
): Promise<Uint8Array> {
  const { default: sharp } = await import('sharp');
  const [, height = 0, width = 0, channels = 0] = images.shape;
  const length = height * width * channels;
  const pixels = levelsOf(images.data.subarray(index * length, (index + 1) * length));
  const raw = { width, height, channels: channels === 4 ? (4 as const) : (3 as const) };
  const png = await sharp(pixels, { raw }).png({ compressionLevel }).toBuffer();
  if (texts.size === 0) return png;
  const chunks = [...texts].map(([keyword, text]) => textChunk(keyword, text));
  return Buffer.concat([
    png.subarray(0, SIGNATURE_AND_HEADER_BYTES),
    ...chunks,
    png.subarray(SIGNATURE_AND_HEADER_BYTES),
  ]);
}

/** 8-bit levels: scaled by 255, clipped and truncated. */
export function levelsOf(values: Float32Array): Uint8Array {
  const out = new Uint8Array(values.length);
  for (let i = 0; i < values.length; i += 1) out[i] = Math.min(255, Math.max(0, Math.fround((values[i] ?? 0) * 255)));
  return out;
}

/** tEXt for Latin-1, iTXt for everything else, as Pillow's add_text chooses. */
function textChunk(keyword: string, text: string): Buffer {
  const isLatin1 = !/[^\0-\u00ff]/.test(text);
  const key = Buffer.from(`${keyword}\0`, 'latin1');
  if (isLatin1) return chunk('tEXt', Buffer.concat([key, Buffer.from(text, 'latin1')]));
  return chunk('iTXt', Buffer.concat([key, Buffer.from([0, 0, 0, 0]), Buffer.from(text, 'utf8')]));
}

function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const out = Buffer.alloc(body.length + 8);
  out.writeUInt32BE(data.length, 0);
  body.copy(out, 4);
  out.writeUInt32BE(crc32(body), body.length + 4);
  return out;
}
