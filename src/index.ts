/**
 * Vision Bridge as a library.
 *
 * Nothing runs at import time. An encoder owns an inference process: dispose it (`await using`) when done.
 */
import { isAbsolute } from 'node:path';
import { dataDirectoryOf, openRegistry } from './bridge.js';
import { silentLogger, type Logger } from './common/logger.js';
import { BridgeError, ModelNotFoundError } from './common/errors.js';
import { AdapterEngine, IPAdapterServiceCore, ReferenceEncoder, type IPAdapterConfig } from './adapter/index.js';
import { FaceEngine } from './faces/index.js';
import { adapterFolders, ComfyUIPathResolver, ModelPathConfig, type TrackedUsage } from './library/index.js';
import type { ModelRegistry } from './registry/index.js';
import { createVisionServices, type VisionServices } from './vision-services.js';
import { CLIPVisionEncoderCore, type EncoderOptions } from './vision/index.js';

export {
  BridgeError,
  ERROR_CODES,
  InvalidRequestError,
  ModelFormatError,
  ModelNotFoundError,
  RuntimeUnavailableError,
} from './common/errors.js';
export type { ErrorCode } from './common/errors.js';
export type { Logger } from './common/logger.js';
export {
  ComfyUIPathResolver,
  ModelPathConfig,
  detectComfyUIInstallation,
  findEncoderIssues,
  findIssues,
  findValueIssues,
  pairModels,
  resolveWorkflow,
} from './library/index.js';
export type { ComfyUIInstallation, DetectionOptions, FolderStats, ModelFile, TrackedUsage } from './library/index.js';
export type { ImageInput } from './image/index.js';
export { findDuplicates } from './registry/index.js';
export type {
  Duplicates,
  Grouping,
  ModelBeside,
  ModelEntry,
  ModelHashes,
  ModelQuery,
  ModelReading,
  ModelRegistry,
  ModelRow,
  ModelStats,
  QueryResult,
  SidecarClaims,
  ValueCheck,
} from './registry/index.js';
export type { F32Tensor, Shape, U8Tensor } from './tensor/tensor.js';
export type {
  EncodeImageOptions,
  EncoderOptions,
  ImageFeatures,
  Precision,
  VisionModel,
  VisionOutput,
} from './vision/index.js';

export { ReferenceImage, combineEmbeds, readEmbeds, serializeEmbeds, weighEmbeds } from './adapter/index.js';
export { attentionPlaces, maskTokens, transformerWeights } from './adapter/index.js';
export type {
  AdapterFeatures,
  CombineMode,
  IPAdapterConfig,
  IPAdapterEmbeds,
  IPAdapterModel,
  IPAdapterTokens,
  IPAdapterVariant,
  Negative,
  ProjectedEmbeds,
  WeightType,
} from './adapter/index.js';
export { faceSimilarity } from './faces/index.js';
export type { FaceChoice } from './faces/index.js';

const IDLE_RELEASE_MS = 300_000;
const MAX_PENDING_CALLS = 256;
const MAX_FEATURE_BYTES = 2e9;

export interface PretrainedOptions extends EncoderOptions {
  readonly logger?: Logger;
  /** Keep features on disk and look there first. Default true. */
  readonly featureStore?: boolean;
  /** Folder of the features and of int8 weights; default: the platform's cache folder + `/vision-bridge`. */
  readonly dataDirectory?: string;
}

/** A CLIP vision encoder over a user's own file. */
export class CLIPVisionEncoder extends CLIPVisionEncoderCore {
  /**
   * Opens an encoder; the weights are loaded by the first encode.
   *
   * @throws {ModelFormatError} `VISION_FAMILY_UNKNOWN` and its kin when the file is none.
   */
  static async fromPretrained(path: string, options: PretrainedOptions = {}): Promise<CLIPVisionEncoder> {
    const services = visionServicesOf(options);
    return new CLIPVisionEncoder(await services.engine.open(path), services, options);
  }
}

export interface LoadOptions extends PretrainedOptions {
  /** Where to look; default: the ComfyUI that is found by itself. */
  readonly resolver?: ComfyUIPathResolver;
  /** A name of the clip_vision folder; default: the first file there that is an encoder, by content. */
  readonly name?: string;
}

/**
 * Finds an encoder among the user's models and opens it.
 *
 * @throws {ModelNotFoundError} naming the folders that were looked in, and why each file in them is none.
 */
export async function loadClipVision({
  resolver = ComfyUIPathResolver.fromAutoDetect(),
  name,
  ...options
}: LoadOptions = {}): Promise<CLIPVisionEncoder> {
  const files = (await resolver.scanModels('clip_vision')).filter((file) => name === undefined || file.name === name);
  const refusals: string[] = [];
  for (const { path } of files) {
    try {
      return await CLIPVisionEncoder.fromPretrained(path, options);
    } catch (error) {
      refusals.push(error instanceof Error ? error.message : String(error));
    }
  }
  const searched = resolver.getPaths('clip_vision');
  const wanted = name === undefined ? 'a vision encoder' : `an encoder called "${name}"`;
  throw new ModelNotFoundError(
    `Found no ${wanted.replace(/^an? /, '')}. Looked in ${searched.join(', ')}. ${refusals.join(' ')}`.trim(),
    {
      details: { searched, refusals },
    },
  );
}

export interface IPAdapterServiceOptions extends IPAdapterConfig, Omit<PretrainedOptions, keyof EncoderOptions> {
  /** Where to look; default: the ComfyUI that is found by itself. */
  readonly resolver?: ComfyUIPathResolver;
}

/** IP-Adapters over a user's own files: references in, image prompt tokens out. */
export class IPAdapterService extends IPAdapterServiceCore implements AsyncDisposable {
  readonly #services: VisionServices;

  /** @throws {BridgeError} `COMFYUI_NOT_FOUND` where nobody says where to look, neither by `resolver` nor by an adapter's path. */
  constructor({ resolver, ...options }: IPAdapterServiceOptions = {}) {
    const { folderPaths } = resolver ?? resolverFor(options);
    const { adapters: adapterFiles, encoders: encoderFiles, facePacks } = adapterFolders(folderPaths);
    const services = visionServicesOf(options);
    const { engine: vision, inference } = services;
    const adapters = new AdapterEngine(inference, services);
    const faces = new FaceEngine(inference);
    const references = new ReferenceEncoder(adapters, vision, faces);
    super({ adapters, vision, faces, references, adapterFiles, encoderFiles, facePacks }, options);
    this.#services = services;
  }

  /** Ends the inference process. Closing twice is harmless. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#services[Symbol.asyncDispose]();
  }
}

/** The ComfyUI that is found by itself; where there is none, files can be named by their paths. */
function resolverFor({ adapter }: IPAdapterConfig): ComfyUIPathResolver {
  try {
    return ComfyUIPathResolver.fromAutoDetect();
  } catch (error) {
    const isNowhere = error instanceof BridgeError && error.code === 'COMFYUI_NOT_FOUND';
    if (!isNowhere || adapter === undefined || !isAbsolute(adapter)) throw error;
    return ComfyUIPathResolver.fromConfig(new ModelPathConfig({}));
  }
}

function visionServicesOf(options: Omit<PretrainedOptions, keyof EncoderOptions>): VisionServices {
  return createVisionServices({
    dataDirectory: dataDirectoryOf(options),
    maxFeatureBytes: options.featureStore === false ? 0 : MAX_FEATURE_BYTES,
    idleReleaseMs: IDLE_RELEASE_MS,
    maxPendingCalls: MAX_PENDING_CALLS,
    logger: options.logger ?? silentLogger,
  });
}

export interface RegistryOptions {
  /** Whose folders are read; default: the ComfyUI that is found by itself. */
  readonly resolver?: ComfyUIPathResolver;
  /** Where the index is kept; default: the platform's cache folder + `/vision-bridge`, shared with the server. */
  readonly dataDirectory?: string;
  readonly logger?: Logger;
}

export interface ComfyUIRegistry extends AsyncDisposable {
  /** Scanned once. `refresh()` looks for changes. */
  readonly registry: ModelRegistry;
  /** Which models were used, by the pictures of the output folder and by a running ComfyUI. What it finds is kept. */
  usage(options?: UsageOptions): Promise<TrackedUsage>;
}

export interface UsageOptions {
  /** A running ComfyUI whose history is read: `http://127.0.0.1:8188`. */
  readonly comfyuiUrl?: string;
  /** Default: that of the installation. */
  readonly outputDirectory?: string;
  readonly signal?: AbortSignal;
}

/**
 * Knows every model file of a ComfyUI by its header. Dispose it (`await using`) when done.
 *
 * @throws {BridgeError} `COMFYUI_NOT_FOUND` when none is named and none is found.
 */
export async function createComfyUIRegistry({
  resolver = ComfyUIPathResolver.fromAutoDetect(),
  dataDirectory,
  logger = silentLogger,
}: RegistryOptions = {}): Promise<ComfyUIRegistry> {
  const owned = openRegistry({
    roots: () => resolver.modelRoots(),
    dataDirectory: dataDirectoryOf({ dataDirectory }),
    logger,
  });
  try {
    await owned.registry.refresh();
  } catch (error) {
    await owned[Symbol.asyncDispose]();
    throw error;
  }
  const { registry } = owned;
  return {
    registry,
    usage: ({ comfyuiUrl, outputDirectory = resolver.folderPaths.outputDirectory, ...options } = {}) =>
      owned.trackUsage({ comfyuiUrl, outputDirectory }).usage(registry.entries(), options),
    [Symbol.asyncDispose]: () => owned[Symbol.asyncDispose](),
  };
}
