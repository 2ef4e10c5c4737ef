/**
 * IMAGE tensors in another size, as ComfyUI's image nodes do it.
 *
 * Source: ComfyUI, comfy/utils.py, `common_upscale` and `lanczos`.
 */
import { BridgeError } from '../common/errors.js';
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import { MAX_PIXELS } from './decode.js';
import { levelsOf } from './encode.js';
import { interpolate, type InterpolationMethod, type Window } from './interpolate.js';
import { resizeLanczos } from './lanczos.js';
import { roundHalfEven } from './preprocess.js';

/** In the order in which ComfyUI lists them. */
export const UPSCALE_METHODS = ['nearest-exact', 'bilinear', 'area', 'bicubic', 'lanczos'] as const satisfies readonly (
  InterpolationMethod | 'lanczos'
)[];
type UpscaleMethod = (typeof UPSCALE_METHODS)[number];

export interface UpscaleOptions {
  readonly width: number;
  readonly height: number;
  readonly method: UpscaleMethod;
  /** `center` cuts the picture to the new aspect ratio first, `disabled` stretches. */
  readonly crop: 'disabled' | 'center';
  readonly signal?: AbortSignal | undefined;
}

/**
 * @param images f32 `[B, H, W, C]`
 * @returns f32 `[B, height, width, C]`, owned by the caller
 * @throws {BridgeError} `IMAGE_TOO_LARGE`, `IMAGE_INVALID` when nothing would be left, `CANCELLED`
 */
export async function upscale(images: F32Tensor, options: UpscaleOptions): Promise<F32Tensor> {
  const { width, height, method, crop, signal } = options;
  const [batch = 0, fullHeight = 0, fullWidth = 0] = images.shape;
  checkPixels(batch, width, height);
  const window =
    crop === 'center'
      ? centerWindow(fullWidth, fullHeight, width / height)
      : { left: 0, top: 0, width: fullWidth, height: fullHeight };
  // Rounding made a side vanish; torch and Pillow refuse that too.
  if (Math.min(width, height, window.width, window.height) < 1) {
    throw new BridgeError(
      'IMAGE_INVALID',
      `A picture of ${fullWidth}×${fullHeight} cannot become one of ${width}×${height} (crop ${crop}): a side would be 0.`,
      { details: { width, height, fullWidth, fullHeight, crop } },
    );
  }
  if (method !== 'lanczos') return interpolate(images, window, width, height, method, signal);
  return upscaleLanczos(images, window, width, height, signal);
}

/** Refuses pictures that no machine of a user should be asked to hold. @throws {BridgeError} `IMAGE_TOO_LARGE` */
export function checkPixels(batch: number, width: number, height: number): void {
  if (batch * width * height <= MAX_PIXELS) return;
  throw new BridgeError(
    'IMAGE_TOO_LARGE',
    `${batch} picture(s) of ${width}×${height} have more than ${MAX_PIXELS} pixels together. Make them smaller or fewer.`,
    { details: { batch, width, height, maxPixels: MAX_PIXELS } },
  );
}

function centerWindow(width: number, height: number, newAspect: number): Window {
  const aspect = width / height;
  const left = aspect > newAspect ? roundHalfEven((width - width * (newAspect / aspect)) / 2) : 0;
  const top = aspect < newAspect ? roundHalfEven((height - height * (aspect / newAspect)) / 2) : 0;
  return { left, top, width: width - left * 2, height: height - top * 2 };
}

/** Through 8-bit levels, as Pillow needs them. */
async function upscaleLanczos(
  images: F32Tensor,
  window: Window,
  width: number,
  height: number,
  signal: AbortSignal | undefined,
): Promise<F32Tensor> {
  const [batch = 0, fullHeight = 0, fullWidth = 0, channels = 0] = images.shape;
  const length = width * height * channels;
  const out = new Float32Array(batch * length);
  for (let image = 0; image < batch; image += 1) {
    const cut = new Float32Array(window.width * window.height * channels);
    for (let y = 0; y < window.height; y += 1) {
      const from = ((image * fullHeight + window.top + y) * fullWidth + window.left) * channels;
      cut.set(images.data.subarray(from, from + window.width * channels), y * window.width * channels);
    }
    const picture = { width: window.width, height: window.height, channels, data: levelsOf(cut) };
    const { data } = await resizeLanczos(picture, width, height, signal);
    for (let i = 0; i < length; i += 1) out[image * length + i] = (data[i] ?? 0) / 255;
  }
  return f32Tensor([batch, height, width, channels], out);
}
