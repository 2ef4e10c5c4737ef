/**
 * The adapter engine: opens adapters by header, and projects features to image prompt tokens.
 *
 * Nothing heavy happens here: opening reads a header, projecting is one call to the inference process.
 */
import { BridgeError, InvalidRequestError, ModelFormatError } from '../common/errors.js';
import { readModelHeader } from '../formats/index.js';
import type { Device, InferenceProcess, Progress } from '../runtime/index.js';
import type { F32Tensor, U8Tensor } from '../tensor/tensor.js';
import type { VisionModel } from '../vision/index.js';
import type { ProjectionInput } from './families/index.js';
import { resolveAdapter, type AdapterOptions, type IPAdapterModel } from './model.js';
import type { NoiseOptions } from './noise.js';
import { PROJECT_OPERATION, type ProjectReply, type ProjectRequest } from './operation.js';
import { PICTURES_OPERATION, type PicturesReply, type PicturesRequest } from './pictures-operation.js';

/** What goes into a projection; which of them an adapter takes, its `encoder` and `face` say. All f32. */
export interface AdapterFeatures {
  /** `[B, E]` image embeds, or `[B, N, D]` penultimate hidden states. */
  readonly image?: F32Tensor;
  /** `[B, 1, F]` embeddings of faces. */
  readonly face?: F32Tensor;
}

/** What a projection gives. All tensors are f32 and owned by the caller. */
export interface IPAdapterTokens {
  /** Image prompt tokens `[B, T, C]`. */
  readonly tokens: F32Tensor;
  /** `[B, T, width of the block]` per layer that was asked for. */
  readonly layers: ReadonlyMap<number, { readonly keys: F32Tensor; readonly values: F32Tensor }>;
}

export interface ProjectOptions {
  /** Layers whose keys and values are wanted; default none. */
  readonly layers?: readonly number[] | 'all';
  /** FaceID-plus v2 only: share of the resampler (IPAdapter_plus: `weight_faceidv2`); default 1. */
  readonly faceIdV2Scale?: number;
  /** Default `cpu`. */
  readonly device?: Device | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
}

/** Pictures of one call at most. */
const MAX_ROWS = 4096;

export class AdapterEngine {
  readonly #inference: InferenceProcess;

  constructor(inference: InferenceProcess) {
    this.#inference = inference;
  }

  /**
   * Reads the header of a file and says which adapter it is; loads nothing.
   *
   * @throws {ModelFormatError} `ADAPTER_UNKNOWN`, `TENSOR_MISSING`, `TENSOR_INVALID`, and what the container's reader throws.
   */
  async open(path: string, options: AdapterOptions & { signal?: AbortSignal } = {}): Promise<IPAdapterModel> {
    const { signal, ...rest } = options;
    return resolveAdapter(await readModelHeader(path, signal === undefined ? {} : { signal }), rest).model;
  }

  /**
   * Projects features to image prompt tokens, and these to keys and values of attention layers.
   *
   * @throws {BridgeError} `PAIR_MISMATCH` for features that the adapter does not take, with what it takes;
   *   {ModelFormatError} `OUTPUT_UNAVAILABLE` for a layer that it does not have; what the runtime throws.
   */
  async project(
    model: IPAdapterModel,
    features: AdapterFeatures,
    options: ProjectOptions = {},
  ): Promise<IPAdapterTokens> {
    const layers = options.layers === 'all' ? model.layers : (options.layers ?? []);
    checkLayers(model, layers);
    const request: ProjectRequest = {
      path: model.path,
      isFaceIdV2: model.variant === 'faceid_plus_v2',
      inputs: checkFeatures(model, features),
      scale: options.faceIdV2Scale ?? 1,
      layers,
      device: options.device ?? 'cpu',
    };
    const { signal, onProgress } = options;
    const reply = (await this.#inference.call(PROJECT_OPERATION, request, { signal, onProgress })) as ProjectReply;
    const found = layers.map((layer) => {
      const keys = reply.keyValues[`k.${layer}`];
      const values = reply.keyValues[`v.${layer}`];
      if (keys === undefined || values === undefined) throw new BridgeError('INTERNAL', `layer ${layer} is missing`);
      return [layer, { keys, values }] as const;
    });
    return { tokens: reply.tokens, layers: new Map(found) };
  }

  /**
   * Pixel values of masked pictures, for an encoder of square pictures: f32 `[B, 3, S, S]`.
   *
   * @param mask f32 `[M, H, W]`, one for all pictures or one for each.
   * @throws {InvalidRequestError} for another number of masks.
   */
  async maskPictures(
    { config }: VisionModel,
    images: F32Tensor | U8Tensor,
    mask: F32Tensor,
    signal?: AbortSignal,
  ): Promise<F32Tensor> {
    const [count = 0, height = 0, width = 0] = mask.shape;
    const [pictures = 0] = images.shape;
    if (mask.shape.length !== 3 || height < 1 || width < 1 || (count !== 1 && count !== pictures)) {
      throw new InvalidRequestError(
        `A mask has the shape [M, H, W], one for all ${pictures} pictures or one for each; got [${mask.shape.join(', ')}].`,
      );
    }
    const { imageSize: size, imageMean: mean, imageStd: std } = config;
    if (size < 1) throw new InvalidRequestError('Masks need an encoder of square pictures.');
    return this.#pictures({ kind: 'masked', images, mask, size, mean, std }, signal);
  }

  /** A picture of noise, f32 `[B, S, S, 3]`, over the centre square of a picture, or over black. */
  async noisePicture(size: number, noise: NoiseOptions, picture?: F32Tensor, signal?: AbortSignal): Promise<F32Tensor> {
    const isPicture = picture === undefined || (picture.shape.length === 4 && (picture.shape[3] ?? 0) >= 3);
    if (!isPicture) throw new InvalidRequestError('Noise is made over a picture [B, H, W, C].');
    return this.#pictures({ kind: 'noise', size, noise, ...(picture === undefined ? {} : { picture }) }, signal);
  }

  async #pictures(request: PicturesRequest, signal: AbortSignal | undefined): Promise<PicturesReply> {
    return (await this.#inference.call(PICTURES_OPERATION, request, { signal })) as PicturesReply;
  }
}

function checkLayers(model: IPAdapterModel, layers: readonly number[]): void {
  const missing = layers.find((layer) => !model.layers.includes(layer));
  if (missing !== undefined) {
    throw new ModelFormatError(
      'OUTPUT_UNAVAILABLE',
      `${model.label} has no layer ${missing}; it has ${model.layers.join(', ')}.`,
      { details: { layer: missing, layers: model.layers } },
    );
  }
  if (layers.length > 0 && model.tokenWidth !== model.contextWidth) {
    throw new ModelFormatError(
      'OUTPUT_UNAVAILABLE',
      `${model.label}: its tokens are ${model.tokenWidth} wide and go through a layer of the diffusion model before the adapter's layers, which are ${model.contextWidth} wide. Keys and values cannot be had from the adapter alone.`,
    );
  }
}

function checkFeatures(model: IPAdapterModel, { image, face }: AdapterFeatures): ProjectRequest['inputs'] {
  const inputs: Partial<Record<ProjectionInput, F32Tensor>> = {};
  const { encoder } = model;
  if (encoder !== undefined) {
    const rank = encoder.output === 'image_embeds' ? 2 : 3;
    if (image?.shape.length !== rank || image.shape.at(-1) !== encoder.width || (image.shape[1] ?? 0) < 1) {
      throw mismatch(model, describeEncoderNeed(model), image);
    }
    inputs[encoder.output === 'image_embeds' ? 'image_embeds' : 'hidden_states'] = image;
  }
  if (model.face !== undefined) {
    if (face?.shape.length !== 3 || face.shape[1] !== 1 || face.shape[2] !== model.face.width) {
      throw mismatch(model, `a face embedding [B, 1, ${model.face.width}]`, face);
    }
    // The unnormed portrait's resampler reads the face where others read an encoder.
    inputs[model.projector === 'resampler' ? 'hidden_states' : 'face'] = face;
  }
  const rows = new Set(Object.values(inputs).map(({ shape }) => shape[0] ?? 0));
  const [count = 0] = rows;
  if (rows.size !== 1 || count < 1 || count > MAX_ROWS) {
    throw new InvalidRequestError(
      `An adapter projects 1 to ${MAX_ROWS} pictures at once, as many faces as pictures; got ${[...rows].join(' and ')}.`,
    );
  }
  return inputs;
}

/** `image_embeds [B, 1024], as CLIP-ViT-H gives them` */
export function describeEncoderNeed({ encoder }: IPAdapterModel): string {
  if (encoder === undefined) return 'no picture';
  const { output, width, imageSize } = encoder;
  const shape = output === 'image_embeds' ? `[B, ${width}]` : `[B, N, ${width}]`;
  const known = KNOWN_ENCODERS[`${output} ${width} ${imageSize}`];
  return `${output} ${shape}${known === undefined ? '' : `, as ${known} gives them`}`;
}

const KNOWN_ENCODERS: Readonly<Record<string, string>> = {
  'image_embeds 768 224': 'CLIP-ViT-L',
  'image_embeds 1024 224': 'CLIP-ViT-H',
  'image_embeds 1280 224': 'CLIP-ViT-bigG',
  'penultimate_hidden_states 1024 224': 'CLIP-ViT-L',
  'penultimate_hidden_states 1024 336': 'CLIP-ViT-L-336',
  'penultimate_hidden_states 1280 224': 'CLIP-ViT-H',
  'penultimate_hidden_states 1664 224': 'CLIP-ViT-bigG',
};

function mismatch(model: IPAdapterModel, wanted: string, got: F32Tensor | undefined): BridgeError {
  const given = got === undefined ? 'nothing' : `[${got.shape.join(', ')}]`;
  return new BridgeError('PAIR_MISMATCH', `${model.label} takes ${wanted}; got ${given}.`, {
    details: { adapter: model.path, encoder: model.encoder ?? null, face: model.face ?? null, got: got?.shape ?? null },
  });
}
