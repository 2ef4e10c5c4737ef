/**
 * Pictures made for an adapter's encoder, inside the inference process: masked pixel values, and noise.
 *
 * Source: ComfyUI_IPAdapter_plus, encoder node (mask) and noise node (formulas restated).
 */
import { axisMatrix, normalize, preprocessToU8, roundHalfEven } from '../image/index.js';
import { singleOperation, type Operation } from '../runtime/index.js';
import { f32Tensor, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import { makeNoise, type NoiseOptions } from './noise.js';

/** Name under which the parent calls it. */
export const PICTURES_OPERATION = 'adapter.pictures';

export type PicturesRequest =
  | {
      readonly kind: 'masked';
      readonly images: F32Tensor | U8Tensor;
      /** f32 `[M, H, W]`: one for all pictures, or one for each. */
      readonly mask: F32Tensor;
      /** Side of the square that the encoder takes. */
      readonly size: number;
      readonly mean: readonly number[];
      readonly std: readonly number[];
    }
  | {
      readonly kind: 'noise';
      /** Where the noise begins; black without. f32 `[B, H, W, 3]`. */
      readonly picture?: F32Tensor;
      readonly size: number;
      readonly noise: NoiseOptions;
    };

/** Pixel values f32 `[B, 3, S, S]` of masked pictures, or a picture of noise f32 `[B, S, S, 3]`. */
export type PicturesReply = F32Tensor;

export function createPicturesOperation(): Operation {
  return singleOperation((call) => {
    // Both sides of the channel are this program.
    const request = call.payload as PicturesRequest;
    return Promise.resolve(request.kind === 'masked' ? maskPictures(request) : noisePicture(request));
  });
}

/** The mask multiplies the normalised values: what it hides becomes the mean colour. */
function maskPictures({ images, mask, size, mean, std }: PicturesRequest & { kind: 'masked' }): F32Tensor {
  const pixels = normalize(preprocessToU8(images, { size, crop: 'center' }), { mean, std });
  const [count = 0] = mask.shape;
  const squares = resizeSquare({ ...mask, shape: [...mask.shape, 1] }, size).data;
  const area = size * size;
  const data = pixels.data.map((value, i) => {
    const image = Math.floor(i / (3 * area));
    return value * (squares[(count === 1 ? 0 : image) * area + (i % area)] ?? 0);
  });
  return f32Tensor(pixels.shape, data);
}

function noisePicture({ picture, size, noise }: PicturesRequest & { kind: 'noise' }): F32Tensor {
  const start =
    picture === undefined
      ? f32Tensor([1, size, size, 3], new Float32Array(size * size * 3))
      : resizeSquare(withoutAlpha(picture), size);
  return makeNoise(start, noise);
}

function withoutAlpha({ shape, data }: F32Tensor): F32Tensor {
  const [batch = 0, height = 0, width = 0, channels = 0] = shape;
  if (channels === 3) return f32Tensor(shape, data);
  const out = Float32Array.from(
    { length: batch * height * width * 3 },
    (_none, i) => data[Math.floor(i / 3) * channels + (i % 3)] ?? 0,
  );
  return f32Tensor([batch, height, width, 3], out);
}

/** The centre square of `[B, H, W, C]`, antialiased bicubic to `size`; values may leave their range a little. */
function resizeSquare({ shape, data }: F32Tensor, size: number): F32Tensor {
  const [batch = 0, height = 0, width = 0, channels = 0] = shape;
  if (height === size && width === size) return f32Tensor(shape, data);
  const side = Math.min(height, width);
  const top = roundHalfEven((height - side) / 2);
  const left = roundHalfEven((width - side) / 2);
  const matrix = axisMatrix('bicubic', side, size);
  const out = new Float32Array(batch * size * size * channels);
  const middle = new Float64Array(side * size * channels);
  for (let image = 0; image < batch; image += 1) {
    for (let y = 0; y < side; y += 1) {
      for (let x = 0; x < size; x += 1) {
        for (let channel = 0; channel < channels; channel += 1) {
          let sum = 0;
          for (let i = 0; i < side; i += 1) {
            const weight = matrix[x * side + i] ?? 0;
            if (weight !== 0)
              sum += weight * (data[((image * height + top + y) * width + left + i) * channels + channel] ?? 0);
          }
          middle[(y * size + x) * channels + channel] = sum;
        }
      }
    }
    const line = size * channels;
    for (let y = 0; y < size; y += 1) {
      const target = (image * size + y) * line;
      for (let i = 0; i < side; i += 1) {
        const weight = matrix[y * side + i] ?? 0;
        if (weight === 0) continue;
        for (let x = 0; x < line; x += 1)
          out[target + x] = (out[target + x] ?? 0) + weight * (middle[i * line + x] ?? 0);
      }
    }
  }
  return f32Tensor([batch, size, size, channels], out);
}
