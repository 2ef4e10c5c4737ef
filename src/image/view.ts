/**
 * Stored pictures in other forms: previews, single channels, and the alpha of one picture on another.
 *
 * Alpha is dropped or moved, never composited; orientation and colour profiles are left as they are, as Pillow leaves
 * them when it saves. Of an animation only the first frame is taken.
 *
 * Source: ComfyUI 0.3.64, server.py, `/view` and `/upload/mask`.
 */
import type { Sharp } from 'sharp';
import { BridgeError, messageOf } from '../common/errors.js';
import { insertPngChunks, readPngTextChunks } from './png-chunks.js';

export interface PreviewOptions {
  readonly format: 'webp' | 'jpeg';
  /** 0 to 100; higher counts as 100. */
  readonly quality: number;
  readonly dropAlpha: boolean;
}

const MAX_PIXELS = 178_956_970; // where Pillow suspects a decompression bomb
const PNG_COMPRESSION = 4; // of saved images, as ComfyUI has it

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
 * `rgb`: a PNG without alpha. `alpha`: an RGBA PNG, black, with the alpha of the picture (opaque where it has none).
 *
 * @throws {BridgeError} `IMAGE_INVALID`
 */
export async function encodeChannels(path: string, channels: 'rgb' | 'alpha'): Promise<Buffer> {
  if (channels === 'rgb') return withImage(path, (image) => image.removeAlpha().png().toBuffer());
  return withImage(path, async (image, open) => {
    const { data, info } = await rgbaPixels(image);
    for (let i = 0; i < data.length; i += 4) data.fill(0, i, i + 3);
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

interface Size {
  readonly width: number;
  readonly height: number;
}
type OpenPixels = (pixels: Uint8Array, size: Size) => Sharp;

async function rgbaPixels(image: Sharp): Promise<{ data: Buffer; info: Size }> {
  return image.toColourspace('srgb').ensureAlpha().raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
}

async function withImage<T>(
  source: string | Uint8Array,
  use: (image: Sharp, open: OpenPixels) => Promise<T>,
): Promise<T> {
  const { default: sharp } = await import('sharp');
  const open: OpenPixels = (pixels, { width, height }) => sharp(pixels, { raw: { width, height, channels: 4 } });
  try {
    return await use(sharp(source, { ignoreIcc: true, failOn: 'error', limitInputPixels: MAX_PIXELS }), open);
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    const label = typeof source === 'string' ? source : 'The upload';
    throw new BridgeError('IMAGE_INVALID', `${label} is no image that can be decoded: ${messageOf(error)}.`, {
      cause: error,
    });
  }
}
