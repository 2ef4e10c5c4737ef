/**
 * Pictures in any of the forms that callers have, as one form: RGB `[B, H, W, 3]`.
 *
 * The form is stated and never guessed: a shape of `[3, 3, 3]` says nothing about which axis holds the channels. Values
 * keep their type where that is exact: u8 stays u8, 16 bits lose their low byte as in ComfyUI's LoadImage, f32 stays f32.
 */
import type { Sharp } from 'sharp';
import { throwIfAborted } from '../common/abort.js';
import { BridgeError, InvalidRequestError, messageOf } from '../common/errors.js';
import { elementCount, f32Tensor, u8Tensor, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import { decodeImage, MAX_PIXELS } from './decode.js';
import { requireFinite } from './finite.js';
import { inSlices } from './slices.js';

type Sides2 = readonly [height: number, width: number];
type Sides3 = readonly [number, number, number];
type Sides4 = readonly [number, number, number, number];

/**
 * A picture or a batch of pictures.
 *
 * Arrays are row-major; their kind names dtype and axes: `h` rows, `w` columns, `c` channels, `b` pictures. Levels are
 * 0..255 in u8, 0..65535 in u16, 0..1 in f32. Channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha; grey becomes
 * three equal channels, alpha is dropped and never composited. A mask (`[H, W]` or `[B, H, W]`) is a grey picture.
 */
export type ImageInput =
  | { readonly kind: 'file'; readonly path: string }
  /** The bytes of an image file. `label` names them in messages. */
  | { readonly kind: 'encoded'; readonly bytes: Uint8Array; readonly label?: string }
  /** Rendered as it stands: orientation, colour profile and size are the pipeline's own business. */
  | { readonly kind: 'sharp'; readonly image: Sharp }
  | { readonly kind: 'u8-hwc' | 'u8-chw'; readonly data: Uint8Array; readonly shape: Sides3 }
  | { readonly kind: 'u8-bhwc' | 'u8-bchw'; readonly data: Uint8Array; readonly shape: Sides4 }
  | { readonly kind: 'f32-hwc' | 'f32-chw'; readonly data: Float32Array; readonly shape: Sides3 }
  | { readonly kind: 'f32-bhwc' | 'f32-bchw'; readonly data: Float32Array; readonly shape: Sides4 }
  | { readonly kind: 'u16-hw'; readonly data: Uint16Array; readonly shape: Sides2 }
  | { readonly kind: 'u16-hwc'; readonly data: Uint16Array; readonly shape: Sides3 }
  | { readonly kind: 'u8-mask'; readonly data: Uint8Array; readonly shape: Sides2 | Sides3 }
  | { readonly kind: 'f32-mask'; readonly data: Float32Array; readonly shape: Sides2 | Sides3 };

interface ReadOptions {
  /** Limit of all pictures together. */
  readonly maxPixels?: number;
  readonly signal?: AbortSignal | undefined;
}

type ArrayInput = Exclude<ImageInput, { readonly kind: 'file' | 'encoded' | 'sharp' }>;

/** How the values of an array are laid out. */
interface Layout {
  readonly batch: number;
  readonly height: number;
  readonly width: number;
  readonly channels: number;
  readonly isPlanar: boolean;
}

/**
 * Reads an input.
 *
 * @returns u8 or f32 `[B, H, W, 3]`: a view of the caller's data where nothing had to be moved; do not write into it.
 * @throws {InvalidRequestError} for an array that does not fit its shape, or holds a value that is no number, by its
 *   index; {BridgeError} `IMAGE_INVALID`, `IMAGE_TOO_LARGE`, `CANCELLED`.
 */
export async function readImageInput(input: ImageInput, options: ReadOptions = {}): Promise<F32Tensor | U8Tensor> {
  throwIfAborted(options.signal);
  if (input.kind === 'file') return (await decodeImage(input.path, { ...options, withAlpha: false })).rgb;
  if (input.kind === 'encoded') {
    const label = input.label === undefined ? {} : { label: input.label };
    return (await decodeImage(input.bytes, { ...options, ...label, withAlpha: false })).rgb;
  }
  if (input.kind === 'sharp') return renderSharp(input.image, options);
  return readArray(input, options);
}

async function renderSharp(image: Sharp, { maxPixels = MAX_PIXELS, signal }: ReadOptions): Promise<U8Tensor> {
  const label = 'The picture of a sharp pipeline';
  try {
    const pipeline = image.clone().removeAlpha().toColourspace('srgb').raw({ depth: 'uchar' });
    const { data, info } = await pipeline.toBuffer({ resolveWithObject: true });
    throwIfAborted(signal);
    const { width, height, channels, pages = 1, pageHeight = height } = info;
    checkPixels(label, pages, pageHeight, width, maxPixels);
    if (channels !== 3) throw new Error(`it has ${channels} channels in sRGB`);
    return u8Tensor([pages, pageHeight, width, 3], data);
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    throw new BridgeError('IMAGE_INVALID', `${label} cannot be rendered: ${messageOf(error)}.`, { cause: error });
  }
}

async function readArray(
  input: ArrayInput,
  { maxPixels = MAX_PIXELS, signal }: ReadOptions,
): Promise<F32Tensor | U8Tensor> {
  const layout = layoutOf(input);
  const { batch, height, width } = layout;
  checkPixels(`The ${input.kind} picture`, batch, height, width, maxPixels);
  const shape = [batch, height, width, 3];
  const isRgb = layout.channels === 3 && !layout.isPlanar;
  const { data } = input;
  if (data instanceof Float32Array) {
    requireFinite(data, input.shape, `The ${input.kind} picture`);
    return f32Tensor(
      shape,
      isRgb ? data : await interleave(data, layout, new Float32Array(elementCount(shape)), signal),
    );
  }
  const levels = data instanceof Uint8Array ? data : await highBytes(data, signal);
  if (isRgb) return u8Tensor(shape, levels);
  return u8Tensor(shape, await interleave(levels, layout, new Uint8Array(elementCount(shape)), signal));
}

/** 16 bits without their low byte. */
async function highBytes(data: Uint16Array, signal: AbortSignal | undefined): Promise<Uint8Array> {
  const high = new Uint8Array(data.length);
  const narrow = (begin: number, end: number): void => {
    for (let i = begin; i < end; i += 1) high[i] = (data[i] ?? 0) >> 8;
  };
  await inSlices(data.length, 1, narrow, signal);
  return high;
}

const ARRAYS = {
  'u8-hwc': Uint8Array,
  'u8-chw': Uint8Array,
  'u8-bhwc': Uint8Array,
  'u8-bchw': Uint8Array,
  'u8-mask': Uint8Array,
  'u16-hw': Uint16Array,
  'u16-hwc': Uint16Array,
  'f32-hwc': Float32Array,
  'f32-chw': Float32Array,
  'f32-bhwc': Float32Array,
  'f32-bchw': Float32Array,
  'f32-mask': Float32Array,
} as const satisfies Record<ArrayInput['kind'], unknown>;

/** Checks what the types promise, for callers who have none, and what they cannot. */
function layoutOf(input: ArrayInput): Layout {
  const { kind, data, shape } = input;
  if (!Object.hasOwn(ARRAYS, kind)) {
    throw new InvalidRequestError(
      `An image input of the kind "${kind}" is not known: file, encoded, sharp, ${Object.keys(ARRAYS).join(', ')} are.`,
    );
  }
  if (!(data instanceof ARRAYS[kind])) throw new InvalidRequestError(`The data of ${kind} is a ${ARRAYS[kind].name}.`);
  const axes = kind.split('-')[1] ?? '';
  const ranks = axes === 'mask' ? [2, 3] : [axes.length];
  const sides: readonly number[] = shape;
  if (!ranks.includes(sides.length)) {
    const wanted = axes === 'mask' ? '[H, W] or [B, H, W]' : `[${Array.from(axes.toUpperCase()).join(', ')}]`;
    throw new InvalidRequestError(`The shape of ${kind} is ${wanted}, got [${sides.join(', ')}].`);
  }
  if (!sides.every((side) => Number.isSafeInteger(side) && side >= 1)) {
    throw new InvalidRequestError(`The sides of ${kind} are whole numbers from 1 on, got [${sides.join(', ')}].`);
  }
  if (elementCount(sides) !== data.length) {
    throw new InvalidRequestError(
      `${kind} of the shape [${sides.join(', ')}] has ${elementCount(sides)} values, got ${data.length}.`,
    );
  }
  const named = axes === 'mask' ? (sides.length === 2 ? 'hw' : 'bhw') : axes;
  const side = (axis: string): number => sides[named.indexOf(axis)] ?? 1;
  const channels = side('c');
  if (channels > 4)
    throw new InvalidRequestError(`${kind} has 1 to 4 channels, got ${channels}: is the layout another one?`);
  const isPlanar = channels > 1 && named.indexOf('c') < named.indexOf('h');
  return { batch: side('b'), height: side('h'), width: side('w'), channels, isPlanar };
}

/** RGB, pixel by pixel, into `out`. */
async function interleave<A extends Float32Array | Uint8Array>(
  data: A,
  { batch, height, width, channels, isPlanar }: Layout,
  out: A,
  signal: AbortSignal | undefined,
): Promise<A> {
  const area = height * width;
  const isGrey = channels < 3;
  const step = isPlanar ? area : 1;
  const move = (begin: number, end: number): void => {
    for (let pixel = begin; pixel < end; pixel += 1) {
      const image = Math.floor(pixel / area);
      const from = isPlanar ? image * area * channels + (pixel - image * area) : pixel * channels;
      out[pixel * 3] = data[from] ?? 0;
      out[pixel * 3 + 1] = data[isGrey ? from : from + step] ?? 0;
      out[pixel * 3 + 2] = data[isGrey ? from : from + step * 2] ?? 0;
    }
  };
  await inSlices(batch * area, 3, move, signal);
  return out;
}

function checkPixels(label: string, batch: number, height: number, width: number, maxPixels: number): void {
  if (batch * height * width <= maxPixels) return;
  throw new BridgeError(
    'IMAGE_TOO_LARGE',
    `${label} is ${width}×${height}${batch > 1 ? `, ${batch} times` : ''}; the limit is ${maxPixels} pixels. Scale it down, or send fewer at a time.`,
    { details: { width, height, batch, maxPixels } },
  );
}
