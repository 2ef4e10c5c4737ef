/** What the engine is given, looked at before anything is done with it. */
import { readFile, stat } from 'node:fs/promises';
import { InvalidRequestError } from '../common/errors.js';
import type { Crop, ImageInput } from '../image/index.js';
import type { F32Tensor, U8Tensor } from '../tensor/tensor.js';
import type { VisionConfig } from './config.js';
import type { VisionInput } from './options.js';
import { familyOf, type VisionModel } from './model.js';
import type { PrepareInput } from './thread-tasks.js';

/** Larger files are read by the decoder alone, which need not hold them whole. */
const MAX_HASHED_FILE_BYTES = 64 * 2 ** 20;

/** Pictures of the encoder's own size are only hashed: copying so few to a thread and back takes longer. */
const MAX_SMALL_BYTES = 2 ** 20;

export function isSmall({ input }: PrepareInput): boolean {
  if ('images' in input && input.resampling !== undefined) return false;
  return ('images' in input ? input.images : input.pixelValues).data.byteLength <= MAX_SMALL_BYTES;
}

/** What a thread may take over of pixels that nobody else has; nothing where they are a small part of other memory. */
export function memoryOf({ data }: F32Tensor | U8Tensor): ArrayBuffer[] {
  const { buffer, byteLength } = data;
  return buffer instanceof ArrayBuffer && byteLength > buffer.byteLength / 2 ? [buffer] : [];
}

/** The bytes of an image file, where the input is one. @throws what reading a missing file through `readImageInput` throws */
export async function encodedBytesOf(image: ImageInput): Promise<Uint8Array | undefined> {
  if (image.kind === 'encoded') return image.bytes;
  if (image.kind !== 'file') return undefined;
  try {
    const stats = await stat(image.path);
    return !stats.isFile() || stats.size > MAX_HASHED_FILE_BYTES ? undefined : await readFile(image.path);
  } catch {
    return undefined; // decoding it says what is wrong
  }
}

export function checkCount(pictures: number, maxPictures: number): number {
  if (pictures <= maxPictures) return pictures;
  throw new InvalidRequestError(
    `A request holds at most ${maxPictures} pictures, frames of animations counted; this image alone has ${pictures}.`,
    { details: { maxPictures } },
  );
}

export function checkInput(input: VisionInput, model: VisionModel, crop: Crop): PrepareInput {
  if (!('pixelValues' in input)) {
    const [batch = 0, height = 0, width = 0, channels = 0] = input.shape;
    if (input.shape.length !== 4 || batch < 1 || height < 1 || width < 1 || channels < 3) {
      throw new InvalidRequestError(
        `Images have the shape [B, H, W, C] with three channels or more, got [${input.shape.join(', ')}].`,
      );
    }
    const resampling = familyOf(model).resample(width, height, crop, model.config);
    return { input: { images: input, resampling } };
  }
  const { pixelValues } = input;
  const [batch = 0, channels = 0, height = 0, width = 0] = pixelValues.shape;
  if (pixelValues.shape.length !== 4 || batch < 1 || channels !== 3 || !fits(model.config, height, width)) {
    const { imageSize, patchSize, maxPatches } = model.config;
    const sides =
      imageSize === -1
        ? `[B, 3, H, W] with sides that are multiples of ${patchSize} and at most ${maxPatches ?? 0} patches`
        : `[B, 3, ${imageSize}, ${imageSize}]`;
    throw new InvalidRequestError(
      `${model.family} takes pixel values ${sides}, got [${pixelValues.shape.join(', ')}].`,
    );
  }
  return { input: { pixelValues } };
}

function fits({ imageSize, patchSize, maxPatches = 0 }: VisionConfig, height: number, width: number): boolean {
  if (imageSize !== -1) return height === imageSize && width === imageSize;
  const patches = (height / patchSize) * (width / patchSize);
  return height % patchSize === 0 && width % patchSize === 0 && patches >= 1 && patches <= maxPatches;
}

/** An image file whose bytes were read already. */
export function encodedImage(image: ImageInput, bytes: Uint8Array): ImageInput & { readonly kind: 'encoded' } {
  const label = image.kind === 'file' ? image.path : image.kind === 'encoded' ? image.label : undefined;
  return { kind: 'encoded', bytes, ...(label === undefined ? {} : { label }) };
}
