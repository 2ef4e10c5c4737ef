/**
 * IMAGE tensors to CLIP pixel values.
 *
 * Follows ComfyUI's `clip_preprocess` to the last step, including the rounding to 8 bits before normalization, which
 * happens even where nothing is resized. Pure and synchronous: it runs in the inference process, never on the server's
 * thread. Decoding files is decode.ts.
 *
 * Source: ComfyUI, comfy/clip_vision.py, `clip_preprocess`.
 */
import { InvalidRequestError } from '../common/errors.js';
import { f32Tensor, u8Tensor, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import { axisWeights, type AxisWeights, type Filter } from './resample.js';

export type Crop = 'center' | 'none';

/** How a picture becomes the one that an encoder sees. */
export interface Resampling {
  readonly filter: Filter;
  /** Size of the whole resampled picture; only the window is computed. */
  readonly width: number;
  readonly height: number;
  readonly window: { readonly left: number; readonly top: number; readonly width: number; readonly height: number };
}

interface PreprocessOptions {
  /** Side of the square that the encoder takes. */
  readonly size: number;
  /** `center` keeps the aspect ratio and crops, `none` stretches. */
  readonly crop: Crop;
  /** Per channel, RGB. */
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

const f = Math.fround;
const CHANNELS = 3;
const U8_LEVELS = Float32Array.from({ length: 256 }, (_none, level) => level / 255);

/**
 * Pixel values as an encoder of square pictures takes them.
 *
 * @param images `[B, H, W, C]`, RGB(A), u8 or f32 in 0..1; channels beyond three are dropped.
 * @returns f32 `[B, 3, S, S]`, owned by the caller.
 * @throws {InvalidRequestError} when the shape is not that of an image.
 */
export function preprocess(images: F32Tensor | U8Tensor, options: PreprocessOptions): F32Tensor {
  return normalize(preprocessToU8(images, options), options);
}

/** The 8-bit pictures that an encoder of square pictures sees: u8 `[B, S, S, 3]`. */
export function preprocessToU8(
  images: F32Tensor | U8Tensor,
  { size, crop }: Pick<PreprocessOptions, 'size' | 'crop'>,
): U8Tensor {
  const [, height = 0, width = 0] = images.shape;
  return resampleToU8(images, clipResampling(width, height, size, crop));
}

/** Pixel values f32 `[B, 3, H, W]` of 8-bit pictures `[B, H, W, 3]`. */
export function normalize(levels: U8Tensor, { mean, std }: Pick<PreprocessOptions, 'mean' | 'std'>): F32Tensor {
  const [batch = 0, height = 0, width = 0] = levels.shape;
  const area = height * width;
  const out = new Float32Array(batch * CHANNELS * area);
  for (let channel = 0; channel < CHANNELS; channel += 1) {
    const center = f(mean[channel] ?? 0);
    const scale = f(std[channel] ?? 1);
    const table = U8_LEVELS.map((value) => f(f(value - center) / scale));
    for (let image = 0; image < batch; image += 1) {
      const begin = (image * CHANNELS + channel) * area;
      for (let i = 0; i < area; i += 1)
        out[begin + i] = table[levels.data[(image * area + i) * CHANNELS + channel] ?? 0] ?? 0;
    }
  }
  return f32Tensor([batch, CHANNELS, height, width], out);
}

/**
 * The 8-bit pictures that an encoder sees: u8 `[B, H, W, 3]`. Two pictures that agree here have equal features.
 *
 * @param resampling Undefined keeps the size; the rounding to 8 bits happens all the same.
 * @throws {InvalidRequestError} when the shape is not that of an image.
 */
export function resampleToU8(images: F32Tensor | U8Tensor, resampling: Resampling | undefined): U8Tensor {
  const [batch = 0, height = 0, width = 0, channels = 0] = images.shape;
  if (images.shape.length !== 4 || batch === 0 || height === 0 || width === 0 || channels < CHANNELS) {
    throw new InvalidRequestError(
      `An image tensor has the shape [B, H, W, C] with at least three channels and one pixel; this one has [${images.shape.join(', ')}].`,
    );
  }
  const size = resampling?.window ?? { width, height };
  const length = size.width * size.height * CHANNELS;
  const out = new Uint8Array(batch * length);
  const imageLength = height * width * channels;
  for (let image = 0; image < batch; image += 1) {
    const picture = { data: images.data, begin: image * imageLength, width, height, channels };
    const target = out.subarray(image * length, (image + 1) * length);
    if (resampling === undefined) {
      const lines = linesOf(picture, { first: 0, end: width });
      for (let row = 0; row < height; row += 1) quantize(lines(row), target.subarray(row * width * CHANNELS));
    } else quantize(resize(picture, resampling), target);
  }
  return u8Tensor([batch, size.height, size.width, CHANNELS], out);
}

/** ComfyUI's `clip_preprocess`: to a square; undefined where the picture already has the size. */
export function clipResampling(width: number, height: number, size: number, crop: Crop): Resampling | undefined {
  if (width === size && height === size) return undefined;
  const filter = 'bicubic';
  if (crop === 'none') {
    return { filter, width: size, height: size, window: { left: 0, top: 0, width: size, height: size } };
  }
  const scale = size / Math.min(width, height);
  const scaled = { width: roundHalfEven(scale * width), height: roundHalfEven(scale * height) };
  const left = Math.floor((scaled.width - size) / 2);
  const top = Math.floor((scaled.height - size) / 2);
  return { filter, ...scaled, window: { left, top, width: size, height: size } };
}

/** Where ComfyUI's search for the scale begins and ends. */
const FLEXIBLE_PRECISION = 1e-5;
const FLEXIBLE_MAX_SCALE = 100;

/**
 * SigLIP2 NaFlex: the largest whole number of patches, at most `maxPatches`, that keeps the picture's shape; nothing is
 * cropped.
 *
 * Source: ComfyUI, comfy/clip_model.py, `siglip2_flex_calc_resolution` and `siglip2_preprocess`.
 */
export function flexibleResampling(
  width: number,
  height: number,
  patchSize: number,
  maxPatches: number,
): Resampling | undefined {
  const scaled = (side: number, scale: number): number =>
    Math.max(patchSize, Math.ceil((side * scale) / patchSize) * patchSize);
  let low = FLEXIBLE_PRECISION / 10;
  let high = FLEXIBLE_MAX_SCALE;
  while (high - low >= FLEXIBLE_PRECISION) {
    const middle = (low + high) / 2;
    const patches = (scaled(height, middle) / patchSize) * (scaled(width, middle) / patchSize);
    if (patches <= maxPatches) low = middle;
    else high = middle;
  }
  const target = { width: scaled(width, low), height: scaled(height, low) };
  if (target.width === width && target.height === height) return undefined;
  return { filter: 'bilinear', ...target, window: { left: 0, top: 0, ...target } };
}

/** Python's `round`: 224.5 gives 224, 225.5 gives 226. */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

/** One image `[H, W, C]` of a batch. */
interface Picture {
  readonly data: Float32Array | Uint8Array;
  readonly begin: number;
  readonly width: number;
  readonly height: number;
  readonly channels: number;
}

/**
 * Columns `[first, end)` of the rows of one image as f32 `[columns, 3]`, each row valid until the next is asked for: a
 * picture as floats is four times its size, a row is nothing.
 */
function linesOf(
  { data, begin, width, channels }: Picture,
  { first, end }: { first: number; end: number },
): (row: number) => Float32Array {
  const start = (row: number): number => begin + (row * width + first) * channels;
  if (data instanceof Float32Array && channels === CHANNELS) {
    return (row) => data.subarray(start(row), start(row) + (end - first) * CHANNELS);
  }
  const line = new Float32Array((end - first) * CHANNELS);
  // A loop for each type: one loop for both would be compiled for neither.
  const fill = data instanceof Float32Array ? dropChannels : readLevels;
  return (row) => {
    fill(data as never, start(row), channels, line);
    return line;
  };
}

function dropChannels(data: Float32Array, begin: number, channels: number, line: Float32Array): void {
  for (let at = 0, from = begin; at < line.length; at += CHANNELS, from += channels) {
    for (let channel = 0; channel < CHANNELS; channel += 1) line[at + channel] = data[from + channel] ?? 0;
  }
}

function readLevels(data: Uint8Array, begin: number, channels: number, line: Float32Array): void {
  for (let at = 0, from = begin; at < line.length; at += CHANNELS, from += channels) {
    line[at] = U8_LEVELS[data[from] ?? 0] ?? 0;
    line[at + 1] = U8_LEVELS[data[from + 1] ?? 0] ?? 0;
    line[at + 2] = U8_LEVELS[data[from + 2] ?? 0] ?? 0;
  }
}

/** Horizontal pass over the rows that the window needs, kept in fp32, then the vertical pass. */
function resize(picture: Picture, resampling: Resampling): Float32Array {
  const { width, height } = picture;
  const { filter, window } = resampling;
  const columns = axisWeights(filter, width, resampling.width, window.left, window.width);
  const rows = axisWeights(filter, height, resampling.height, window.top, window.height);
  const firstRow = rows.starts[0] ?? 0;
  const lastRow = (rows.starts[window.height - 1] ?? 0) + (rows.counts[window.height - 1] ?? 0);
  const lineLength = window.width * CHANNELS;
  const firstColumn = columns.starts[0] ?? 0;
  const lastColumn = (columns.starts[window.width - 1] ?? 0) + (columns.counts[window.width - 1] ?? 0);
  const lines = linesOf(picture, { first: firstColumn, end: lastColumn });

  const middle = new Float32Array((lastRow - firstRow) * lineLength);
  for (let row = firstRow; row < lastRow; row += 1) {
    resizeLine(lines(row), columns, firstColumn, middle.subarray((row - firstRow) * lineLength));
  }

  const out = new Float32Array(window.height * lineLength);
  for (let row = 0; row < window.height; row += 1) {
    const target = out.subarray(row * lineLength, (row + 1) * lineLength);
    const start = (rows.starts[row] ?? 0) - firstRow;
    for (let tap = 0; tap < (rows.counts[row] ?? 0); tap += 1) {
      const weight = rows.weights[row * rows.stride + tap] ?? 0;
      const line = (start + tap) * lineLength;
      for (let i = 0; i < lineLength; i += 1) target[i] = f((target[i] ?? 0) + f(weight * (middle[line + i] ?? 0)));
    }
  }
  return out;
}

/** One row of the horizontal pass: f32 `[W, 3]` from column `firstColumn` on, to f32 `[outputs, 3]`. */
function resizeLine(source: Float32Array, columns: AxisWeights, firstColumn: number, target: Float32Array): void {
  const { starts, counts, weights, stride } = columns;
  for (let column = 0, out = 0; column < starts.length; column += 1, out += CHANNELS) {
    let at = ((starts[column] ?? 0) - firstColumn) * CHANNELS;
    const begin = column * stride;
    const end = begin + (counts[column] ?? 0);
    let red = 0;
    let green = 0;
    let blue = 0;
    for (let i = begin; i < end; i += 1, at += CHANNELS) {
      const weight = weights[i] ?? 0;
      red = f(red + f(weight * (source[at] ?? 0)));
      green = f(green + f(weight * (source[at + 1] ?? 0)));
      blue = f(blue + f(weight * (source[at + 2] ?? 0)));
    }
    target[out] = red;
    target[out + 1] = green;
    target[out + 2] = blue;
  }
}

/** 255·x, clamped, rounded half to even. Nothing was clamped before this step. */
function quantize(source: Float32Array, target: Uint8Array): void {
  for (let i = 0; i < source.length; i += 1) {
    const value = Math.min(255, Math.max(0, f(255 * (source[i] ?? 0))));
    target[i] = roundHalfEven(value);
  }
}
