/**
 * The adapter engine: opens adapters by header, and projects features to image prompt tokens.
 *
 * Nothing heavy happens here: opening reads a header, projecting is one call to the inference process.
 */
import { abortable } from '../common/abort.js';
import { BridgeError, InvalidRequestError, ModelFormatError } from '../common/errors.js';
import { readModelHeader } from '../formats/index.js';
import type { Device, InferenceProcess, Progress } from '../runtime/index.js';
import type { F32Tensor, U8Tensor } from '../tensor/tensor.js';
import type { Precision, VisionModel } from '../vision/index.js';
import { requireAlike } from './combine.js';
import type { ProjectionInput } from './families/index.js';
import type { AdapterFeatures } from './feature-rows.js';
import { keysName, valuesName } from './graph.js';
import { keptPlace } from './kept-projection.js';
import { resolveAdapter, type AdapterOptions, type IPAdapterModel } from './model.js';
import type { NoiseOptions } from './noise.js';
import { PROJECT_OPERATION, type ProjectInputs, type ProjectReply, type ProjectRequest } from './operation.js';
import { PICTURES_OPERATION, type PicturesReply, type PicturesRequest } from './pictures-operation.js';
import {
  copyRows,
  gatherRows,
  MAX_ROWS,
  missingRows,
  readRows,
  recallNamed,
  rowAt,
  stack,
  type NamedRows,
} from './projection-rows.js';
import { TokenCache, type TokenMemory, type TokenShelf } from './token-cache.js';

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
  /** `int8`: the resampler's linear layers in 8 bits, where that is measured to be good enough; others are exact. */
  readonly precision?: Precision | undefined;
  /** Default `cpu`. */
  readonly device?: Device | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
}

/** What adapters remember, and with what. */
interface AdapterMemory extends TokenMemory {
  /** A folder of ours for rounded projections; made if missing. Without it they are made at every start. */
  readonly quantizedDirectory?: string;
}

/** What one call to the inference process is asked for, beside the rows themselves. */
type ProjectSettings = Omit<ProjectRequest, 'batches' | 'tokens' | 'layers' | 'kept'>;

interface ProjectContext {
  readonly settings: ProjectSettings;
  readonly shelf: TokenShelf | undefined;
  readonly options: CallOptions;
}

interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
}

export class AdapterEngine {
  readonly #inference: InferenceProcess;
  readonly #memory: AdapterMemory | undefined;
  readonly #cache: TokenCache | undefined;

  /** @param memory Where tokens and rounded projections are kept; without it, every call and every start makes them anew. */
  constructor(inference: InferenceProcess, memory?: AdapterMemory) {
    this.#inference = inference;
    this.#memory = memory;
    this.#cache = memory === undefined ? undefined : new TokenCache(memory);
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
    const [tokens] = await this.projectAll(model, [features], options);
    if (tokens === undefined) throw new BridgeError('INTERNAL', 'the adapter gave no tokens');
    return tokens;
  }

  /**
   * Projects several features in one call, such as those of both halves of a guided step. What is there several times is
   * computed once.
   *
   * @throws what `project` throws
   */
  async projectAll(
    model: IPAdapterModel,
    list: readonly AdapterFeatures[],
    options: ProjectOptions = {},
  ): Promise<IPAdapterTokens[]> {
    const layers = options.layers === 'all' ? model.layers : (options.layers ?? []);
    checkLayers(model, layers);
    const { faceIdV2Scale: scale = 1, precision = 'comfy', device = 'cpu' } = options;
    const isFaceIdV2 = model.variant === 'faceid_plus_v2';
    const settings: ProjectSettings = { path: model.path, isFaceIdV2, scale, isInt8: precision === 'int8', device };
    // Which device `auto` leads to shows only when a model is loaded.
    const shelf =
      device === 'auto'
        ? undefined
        : await this.#cache?.shelf(model, [
            settings.isInt8 ? 'int8' : 'exact',
            device,
            isFaceIdV2 ? `v2 ${scale}` : '',
          ]);
    const inputsOf = (features: AdapterFeatures): ProjectInputs => requireFeatures(model, features);
    const parts = await Promise.all(
      list.map(
        async (features) => recallNamed(features, shelf) ?? (await readRows(features, inputsOf, shelf, options.signal)),
      ),
    );
    for (const [input, what] of Object.entries(INPUT_WORDS) as [ProjectionInput, string][])
      requireAlike(
        parts.flatMap(({ inputs }) => inputs[input] ?? []),
        what,
      );
    const distinct = [...new Set(parts.flatMap(({ hashes }) => hashes))];
    const found = await this.#projectDistinct(model, distinct, parts, layers, { settings, shelf, options });
    return shareTokens(found, distinct, parts, layers);
  }

  /**
   * Tokens that are kept are not made again; keys and values are made of tokens, wherever these came from.
   *
   * @returns a row for each of the distinct rows, in their order
   */
  async #projectDistinct(
    model: IPAdapterModel,
    distinct: readonly string[],
    parts: readonly NamedRows[],
    layers: readonly number[],
    { settings, shelf, options }: ProjectContext,
  ): Promise<Omit<ProjectReply, 'stamp'>> {
    const found = new Map(parts.flatMap(({ kept }) => [...kept]));
    const missing = missingRows(parts);
    const isNew = missing.hashes.length === distinct.length;
    if (missing.hashes.length > 0) {
      const kept = settings.isInt8 ? await abortable(this.#keptPlace(model), options.signal) : {};
      const request = { ...settings, ...kept, batches: missing.batches, layers: isNew ? layers : [] };
      const made = await this.#call(request, options);
      if (made.keepingError !== undefined) {
        const reason = made.keepingError;
        this.#memory?.logger.warn(
          { reason },
          'the int8 form of this projection is not kept: it is made at every start',
        );
      }
      missing.hashes.forEach((hash, i) => {
        const own = rowAt(made.tokens, i);
        found.set(hash, own);
        // A file that was replaced meanwhile was run as it is now.
        if (made.stamp === model.stamp) shelf?.put(hash, own);
      });
      if (isNew) return made;
    }
    const tokens = stack(distinct.flatMap((hash) => found.get(hash) ?? []));
    if (layers.length === 0) return { tokens, keyValues: {} };
    return this.#call({ ...settings, tokens, layers }, options);
  }

  /** Where the rounded form of a resampler is kept. */
  async #keptPlace(model: IPAdapterModel): Promise<Pick<ProjectRequest, 'kept'>> {
    const directory = this.#memory?.quantizedDirectory;
    if (directory === undefined || !['resampler', 'faceid-plus'].includes(model.projector)) return {};
    const sha256 = await this.#cache?.weightsOf(model);
    if (sha256 === undefined) return {};
    return { kept: { ...keptPlace(directory, sha256, model.variant), stamp: model.stamp } };
  }

  async #call(request: ProjectRequest, { signal, onProgress }: CallOptions): Promise<ProjectReply> {
    return (await this.#inference.call(PROJECT_OPERATION, request, { signal, onProgress })) as ProjectReply;
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

/** What was found for distinct rows, as every part has them. */
function shareTokens(
  { tokens, keyValues }: Omit<ProjectReply, 'stamp'>,
  distinct: readonly string[],
  parts: readonly NamedRows[],
  layers: readonly number[],
): IPAdapterTokens[] {
  const order = new Map(distinct.map((hash, i) => [hash, i]));
  const rowsOf = parts.map(({ hashes }) => hashes.map((hash) => order.get(hash) ?? 0));
  const isEachOnce = rowsOf.flat().length === distinct.length;
  return rowsOf.map((rows) => {
    // Every caller's tokens are its own.
    const own = (tensor: F32Tensor): F32Tensor => (isEachOnce ? gatherRows(tensor, rows) : copyRows(tensor, rows));
    const entries = layers.map((layer) => {
      const keys = keyValues[keysName(layer)];
      const values = keyValues[valuesName(layer)];
      if (keys === undefined || values === undefined) throw new BridgeError('INTERNAL', `layer ${layer} is missing`);
      return [layer, { keys: own(keys), values: own(values) }] as const;
    });
    return { tokens: own(tokens), layers: new Map(entries) };
  });
}

const isList: (value: unknown) => boolean = Array.isArray;

function checkLayers(model: IPAdapterModel, layers: readonly number[]): void {
  // Programs in JavaScript are told here what the type says.
  if (!isList(layers)) throw new InvalidRequestError("Layers are a list of their numbers, or 'all'.");
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

/** What an adapter takes of features. @throws {BridgeError} `PAIR_MISMATCH`; {InvalidRequestError} */
function requireFeatures(model: IPAdapterModel, { image, face }: AdapterFeatures): ProjectInputs {
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

/** What goes into a projection, in words. */
const INPUT_WORDS: Readonly<Record<ProjectionInput, string>> = {
  image_embeds: 'embeds',
  hidden_states: 'embeds',
  face: 'face embeds',
};

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
