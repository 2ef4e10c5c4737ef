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
  const isTiled = tiles > 1 && !('pixelValues' in images);
  const options = {
    outputs: [output],
    precision,
    signal,
    ...(device === undefined ? {} : { device }),
    ...(isTiled ? { tiles, tilesRatio: ratio } : {}),
  };
  const features = (await vision.encode(model, images, options))[OUTPUT_FIELDS[output]];
  if (features === undefined) throw new BridgeError('INTERNAL', `the encoder gave no ${output}`);
  return features;
}
