/** The encoder as a library: one model, one inference process, images in many forms. */
import { InvalidRequestError } from '../common/errors.js';
import { decodeImage, type Crop } from '../image/index.js';
import type { Device, Progress } from '../runtime/index.js';
import { f32Tensor, u8Tensor, type F32Tensor } from '../tensor/tensor.js';
import type { VisionEngine, VisionInput, VisionOutput } from './engine.js';
import type { Precision } from './weight-values.js';
import { joinOutputs } from './join.js';
import { embeddingDim, type VisionModel } from './model.js';

/** An image, its form stated and never guessed. Values are RGB: u8 in 0..255, f32 in 0..1. */
export type ImageInput =
  | { readonly kind: 'file'; readonly path: string }
  /** The bytes of an image file. */
  | { readonly kind: 'encoded'; readonly bytes: Uint8Array }
  | {
      readonly kind: 'u8-hwc';
      readonly data: Uint8Array;
      readonly height: number;
      readonly width: number;
      readonly channels: 3 | 4;
    }
  | {
      readonly kind: 'f32-hwc';
      readonly data: Float32Array;
      readonly height: number;
      readonly width: number;
      readonly channels: 3 | 4;
    }
  | {
      readonly kind: 'f32-bhwc';
      readonly data: Float32Array;
      readonly shape: readonly [number, number, number, number];
    }
  | { readonly kind: 'f32-chw'; readonly data: Float32Array; readonly shape: readonly [number, number, number] }
  | {
      readonly kind: 'f32-bchw';
      readonly data: Float32Array;
      readonly shape: readonly [number, number, number, number];
    };

/** Features of images. All tensors f32, owned by the caller. */
export interface ImageFeatures {
  /** `[B, P]`: the image embeds. Absent where the family gives a sequence instead (SigLIP). */
  readonly globalFeatures: F32Tensor | undefined;
  /** `[B, T, D]` of the last hidden state, without class token and registers where there are any. */
  readonly patchFeatures: F32Tensor;
  /** `[B, D]`; absent where the family has no class token. */
  readonly clsToken: F32Tensor | undefined;
  /** ComfyUI's own outputs, whole. */
  readonly output: VisionOutput;
}

export interface EncoderOptions {
  /** Default `cpu`. */
  readonly device?: Device;
  /** Default `comfy`: the numbers of a default ComfyUI. */
  readonly precision?: Precision;
}

export interface EncodeImageOptions {
  readonly crop?: Crop;
  readonly signal?: AbortSignal;
  /** Told while weights are loaded, or quantised for the first time, and of every image. */
  readonly onProgress?: (progress: Progress) => void;
}

/** What an encoder works with, and lets go of when it is disposed. */
interface EncoderServices extends AsyncDisposable {
  readonly engine: VisionEngine;
}

/** Made by `CLIPVisionEncoder.fromPretrained` of the package, which starts the inference process; end it by disposing. */
export class CLIPVisionEncoderCore implements AsyncDisposable {
  readonly model: VisionModel;
  readonly #services: EncoderServices;
  readonly #precision: Precision;
  #device: Device;

  constructor(
    model: VisionModel,
    services: EncoderServices,
    { precision = 'comfy', device = 'cpu' }: EncoderOptions = {},
  ) {
    this.model = model;
    this.#services = services;
    this.#precision = precision;
    this.#device = device;
  }

  /** Width of the image embeds: 768 for CLIP-L, 1024 for CLIP-H, 1280 for CLIP-bigG. */
  getEmbeddingDim(): number {
    return embeddingDim(this.model);
  }

  async encodeImage(image: ImageInput, options: EncodeImageOptions = {}): Promise<ImageFeatures> {
    const output = await this.#services.engine.encode(this.model, await readImage(image, options.signal), {
      ...options,
      precision: this.#precision,
      device: this.#device,
    });
    return toImageFeatures(output, this.model);
  }

  /** Images of any sizes, as one batch in their order. */
  async encodeImagesBatch(images: readonly ImageInput[], options: EncodeImageOptions = {}): Promise<ImageFeatures> {
    if (images.length === 0) throw new InvalidRequestError('A batch holds at least one image.');
    // Together, so that they can share runs.
    const features = await Promise.all(images.map((image) => this.encodeImage(image, options)));
    return toImageFeatures(joinOutputs(features.map(({ output }) => output)), this.model);
  }

  /** Moves the encoder: the next encode runs there, and says so if it cannot (`DEVICE_UNAVAILABLE`). */
  to(device: Device): this {
    this.#device = device;
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#services[Symbol.asyncDispose]();
  }
}

async function readImage(image: ImageInput, signal: AbortSignal | undefined): Promise<VisionInput> {
  switch (image.kind) {
    case 'file':
      return (await decodeImage(image.path, { signal })).rgb;
    case 'encoded':
      return (await decodeImage(image.bytes, { signal })).rgb;
    case 'u8-hwc':
      return checked(() => u8Tensor([1, image.height, image.width, image.channels], image.data));
    case 'f32-hwc':
      return checked(() => f32Tensor([1, image.height, image.width, image.channels], image.data));
    case 'f32-bhwc':
      return checked(() => f32Tensor(image.shape, image.data));
    case 'f32-chw':
      return checked(() => toChannelsLast(f32Tensor([1, ...image.shape], image.data)));
    case 'f32-bchw':
      return checked(() => toChannelsLast(f32Tensor(image.shape, image.data)));
  }
}

/** A shape that does not fit its data is the caller's mistake. */
function checked<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (error instanceof RangeError)
      throw new InvalidRequestError(`The image does not fit its shape: ${error.message}.`, { cause: error });
    throw error;
  }
}

function toChannelsLast({ shape, data }: F32Tensor): F32Tensor {
  const [batch = 0, channels = 0, height = 0, width = 0] = shape;
  const out = new Float32Array(data.length);
  const area = height * width;
  for (let i = 0; i < data.length; i += 1) {
    const image = Math.floor(i / (channels * area));
    const channel = Math.floor(i / area) % channels;
    out[(image * area + (i % area)) * channels + channel] = data[i] ?? 0;
  }
  return f32Tensor([batch, height, width, channels], out);
}

function toImageFeatures(output: VisionOutput, model: VisionModel): ImageFeatures {
  const { lastHiddenState, imageEmbeds } = output;
  if (lastHiddenState === undefined) throw new InvalidRequestError(`${model.family} gave no last hidden state.`);
  const [batch = 0, tokens = 0, width = 0] = lastHiddenState.shape;
  const first = model.prefixTokens;
  const hasClassToken = first > 0;
  const patchData = new Float32Array(batch * (tokens - first) * width);
  const classData = new Float32Array(hasClassToken ? batch * width : 0);
  for (let b = 0; b < batch; b += 1) {
    const begin = b * tokens * width;
    patchData.set(
      lastHiddenState.data.subarray(begin + first * width, begin + tokens * width),
      b * (tokens - first) * width,
    );
    if (hasClassToken) classData.set(lastHiddenState.data.subarray(begin, begin + width), b * width);
  }
  return {
    globalFeatures: imageEmbeds?.shape.length === 2 ? imageEmbeds : undefined,
    patchFeatures: f32Tensor([batch, tokens - first, width], patchData),
    clsToken: hasClassToken ? f32Tensor([batch, width], classData) : undefined,
    output,
  };
}
