/** Pictures to what a projection takes: encoded whole or in tiles, masked or not. */
import { BridgeError } from '../common/errors.js';
import type { Device } from '../runtime/index.js';
import type { F32Tensor } from '../tensor/tensor.js';
import {
  OUTPUT_FIELDS,
  type Precision,
  type VisionEngine,
  type VisionInput,
  type VisionModel,
} from '../vision/index.js';
import type { EncoderNeed } from './model.js';
import { MAX_TILES, mergeTiles, mixTiles, splitTiles } from './tiles.js';

export interface PictureOptions {
  readonly output: EncoderNeed['output'];
  readonly precision?: Precision | undefined;
  /** Default: the engine's. */
  readonly device?: Device | undefined;
  /** Cut into this many tiles a side, at most 16; default 1. */
  readonly tiles?: number | undefined;
  /** Share of the whole picture beside its tiles; default 1. */
  readonly ratio?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Features of pictures `[B, H, W, C]`, cropped to their centre square as IPAdapter_plus does, or of pixel values.
 *
 * @returns image embeds `[B, E]` or hidden states `[B, N, D]`; with tiles, a single picture gives two rows.
 */
export async function encodePictures(
  vision: VisionEngine,
  model: VisionModel,
  images: VisionInput,
  { output, precision = 'comfy', device, tiles = 1, ratio = 1, signal }: PictureOptions,
): Promise<F32Tensor> {
  const encode = async (input: VisionInput): Promise<F32Tensor> => {
    const features = (
      await vision.encode(model, input, {
        outputs: [output],
        precision,
        signal,
        ...(device === undefined ? {} : { device }),
      })
    )[OUTPUT_FIELDS[output]];
    if (features === undefined) throw new BridgeError('INTERNAL', `the encoder gave no ${output}`);
    return features;
  };
  const whole = await encode(images);
  const count = Math.min(MAX_TILES, Math.floor(tiles));
  if (count < 2 || 'pixelValues' in images) return whole;
  return mixTiles(whole, mergeTiles(await encode(splitTiles(images, count)), count), ratio);
}
