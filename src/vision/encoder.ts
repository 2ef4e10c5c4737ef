/** The encoder as a library: one model, one inference process, images in many forms. */
import { InvalidRequestError } from '../common/errors.js';
import type { Crop, ImageInput } from '../image/index.js';
import type { Device, Progress } from '../runtime/index.js';
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import type { VisionEngine } from './engine.js';
import type { VisionOutput } from './output.js';
import type { Precision } from './weight-values.js';
import { embeddingDim, type VisionModel } from './model.js';
import { joinEncoded, type EncodedPictures } from './tiles.js';

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
  /** Cuts each picture into so many pieces per side (1 to 16) and merges their features, as IPAdapter_plus does. */
  readonly tiles?: number;
  /**
   * Share of the whole picture's own features, 0 to 1. One picture then gives two rows, [ratio · whole, merged], more
   * give ratio · whole + (1 - ratio) · merged each, as in IPAdapter_plus. Absent: the merged features alone.
   */
  readonly tilesRatio?: number;
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
    return toImageFeatures((await this.#encode(image, options)).output, this.model);
  }

  async #encode(image: ImageInput, options: EncodeImageOptions): Promise<EncodedPictures> {
    const settings = { ...options, precision: this.#precision, device: this.#device };
    return this.#services.engine.encodeImage(this.model, image, settings);
  }

  /** Images of any sizes, as one batch in their order. */
  async encodeImagesBatch(images: readonly ImageInput[], options: EncodeImageOptions = {}): Promise<ImageFeatures> {
    if (images.length === 0) throw new InvalidRequestError('A batch holds at least one image.');
    // Together, so that they can share runs.
    const parts = await Promise.all(images.map((image) => this.#encode(image, options)));
    const total = parts.reduce((sum, { pictures }) => sum + pictures, 0);
    return toImageFeatures(joinEncoded(parts, total, options.tilesRatio), this.model);
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
