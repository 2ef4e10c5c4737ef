/**
 * IP-Adapters as a library: one adapter, the encoder and the face networks that go with it, references in, tokens out.
 *
 * Where a model is missing, the error says what was looked for and where; no feature is ever made up.
 */
import { isAbsolute } from 'node:path';
import { InvalidRequestError, ModelNotFoundError } from '../common/errors.js';
import type { FaceChoice, FaceEngine, FaceModel } from '../faces/index.js';
import type { ImageInput } from '../image/index.js';
import type { Device } from '../runtime/index.js';
import type { F32Tensor } from '../tensor/tensor.js';
import type { Precision, VisionEngine, VisionModel } from '../vision/index.js';
import { COMBINE_MODES, type CombineMode } from './combine.js';
import type { IPAdapterEmbeds } from './embeds.js';
import type { AdapterEngine, ProjectOptions } from './engine.js';
import { holdFeatures, makeFeatures, type AdapterFeatures } from './feature-rows.js';
import { blendFeatures, rowCount } from './features.js';
import type { AdapterOptions, IPAdapterModel } from './model.js';
import { findEncoder, requirePair, type ModelSource } from './pairing.js';
import type { Negative, AdapterPair, ProjectedEmbeds, ReferenceEncoder, ReferenceOptions } from './references.js';

export interface IPAdapterConfig {
  /** A name of the ipadapter folder, or a path; default: `loadIPAdapter` says which. */
  readonly adapter?: string;
  /** Path of the encoder to use, in place of the one that is found by content. */
  readonly clipVisionPath?: string;
  /** Name of a pack of face networks; default the first that is complete. */
  readonly facePack?: string;
  readonly precision?: Precision;
  /** Default `cpu`. */
  readonly device?: Device;
}

/** A reference picture. Its features are kept on it once they were made, and used again by the same service. */
export class ReferenceImage {
  readonly image: ImageInput;
  readonly weight: number;
  readonly mask: F32Tensor | undefined;
  /** Made by the service's `extractFeatures`; conditional part, not weighed. */
  features: AdapterFeatures | undefined;
  /** What the features were made with. */
  featuresKey: string | undefined;

  constructor(image: ImageInput, options: { weight?: number; mask?: F32Tensor; features?: AdapterFeatures } = {}) {
    this.image = image;
    this.weight = options.weight ?? 1;
    this.mask = options.mask;
    this.features = options.features;
  }
}

export interface BlendOptions {
  readonly combine?: CombineMode;
  readonly negative?: Negative;
  readonly signal?: AbortSignal;
}

export interface ExtractOptions {
  readonly face?: FaceChoice;
  readonly signal?: AbortSignal;
}

/** What the service is built from. */
interface IPAdapterRooms {
  readonly adapters: AdapterEngine;
  readonly vision: VisionEngine;
  readonly faces: FaceEngine;
  readonly references: ReferenceEncoder;
  readonly adapterFiles: ModelSource;
  readonly encoderFiles: ModelSource;
  /** Folders of face networks. */
  readonly facePacks: ModelSource;
}

/** The package's `IPAdapterService` is one with folders and an inference process of its own. */
export class IPAdapterServiceCore {
  readonly #rooms: IPAdapterRooms;
  readonly #config: IPAdapterConfig;
  #adapter: IPAdapterModel | undefined;
  #encoder: VisionModel | undefined;
  #faces: FaceModel | undefined;
  #device: Device;

  constructor(rooms: IPAdapterRooms, config: IPAdapterConfig = {}) {
    this.#rooms = rooms;
    this.#config = config;
    this.#device = config.device ?? 'cpu';
  }

  get adapter(): IPAdapterModel | undefined {
    return this.#adapter;
  }

  get encoder(): VisionModel | undefined {
    return this.#encoder;
  }

  /**
   * Opens an adapter by name or path; its encoder and face networks are looked for when they are needed.
   *
   * @throws {ModelNotFoundError} naming the folders and the adapters in them; {ModelFormatError} `ADAPTER_UNKNOWN`.
   */
  async loadIPAdapter(nameOrPath = this.#config.adapter, options: AdapterOptions = {}): Promise<IPAdapterModel> {
    const { adapterFiles, adapters } = this.#rooms;
    if (nameOrPath === undefined) {
      const known = (await adapterFiles.list()).map(({ name }) => name);
      throw new ModelNotFoundError(
        `Name an IP-Adapter. ${known.length === 0 ? `There is none in ${placesOf(adapterFiles)}` : `There are ${known.join(', ')}`}.`,
        { details: { searched: adapterFiles.places(), known } },
      );
    }
    const model = await adapters.open(await locate(adapterFiles, nameOrPath), options);
    if (this.#encoder !== undefined && model.encoder !== undefined) requirePair(model, this.#encoder);
    this.#adapter = model;
    return model;
  }

  /**
   * Opens the encoder that fits the adapter: the one named, else `clipVisionPath`, else the first in the clip_vision folders
   * that fits by content.
   *
   * @throws {ModelNotFoundError} naming what was looked for, where, and why each file there is not it; {BridgeError}
   *   `PAIR_MISMATCH` for a named encoder that does not fit.
   */
  async loadClipVision(nameOrPath = this.#config.clipVisionPath, signal?: AbortSignal): Promise<VisionModel> {
    const { encoderFiles, vision } = this.#rooms;
    const adapter = await this.#requireAdapter();
    if (nameOrPath === undefined) {
      this.#encoder = (await findEncoder(adapter, encoderFiles, vision, signal)).model;
      return this.#encoder;
    }
    const model = await vision.open(await locate(encoderFiles, nameOrPath));
    requirePair(adapter, model);
    this.#encoder = model;
    return model;
  }

  /** Opens the face networks of a pack; default the first pack that is complete. @throws {ModelNotFoundError} */
  async loadFaces(pack = this.#config.facePack): Promise<FaceModel> {
    const { facePacks, faces } = this.#rooms;
    this.#faces = await openFacePack(faces, facePacks, pack);
    return this.#faces;
  }

  /** Width of what the projection reads of a picture: 1024 for image embeds of CLIP-H, 1280 for its hidden states. */
  getEmbeddingDim(): number {
    const { encoder, face } = this.#adapter ?? {};
    const width = encoder?.width ?? face?.width;
    if (width === undefined)
      throw new InvalidRequestError('Load an IP-Adapter first: it says which features it takes.');
    return width;
  }

  /** Features of a reference, from the reference itself where it has them. */
  async extractFeatures(reference: ReferenceImage, options: ExtractOptions = {}): Promise<AdapterFeatures> {
    const [features] = await this.extractFeaturesBatch([reference], options);
    if (features === undefined) throw new InvalidRequestError('There is no reference.');
    return features;
  }

  /** Features of several references; those that have theirs are not encoded again, the others in as few runs as may be. */
  async extractFeaturesBatch(
    references: readonly ReferenceImage[],
    options: ExtractOptions = {},
  ): Promise<AdapterFeatures[]> {
    const features = await this.#extract(references, options);
    for (const one of features) await holdFeatures(one, options.signal);
    return features;
  }

  /** Features of references, on the references as well. Those that are kept are not read before somebody looks at them. */
  async #extract(
    references: readonly ReferenceImage[],
    { face = 'first', signal }: ExtractOptions,
  ): Promise<AdapterFeatures[]> {
    const pair = await this.#pair(signal);
    const key = `${pair.adapter.path} ${pair.encoder?.path ?? ''} ${pair.faces?.recogniser ?? ''} ${this.#config.precision ?? ''} ${face}`;
    const missing = references.filter(
      ({ features, featuresKey }) => features === undefined || (featuresKey ?? key) !== key,
    );
    const list = missing.map(({ image, mask }) => ({ images: image, mask }));
    const { precision } = this.#config;
    const options: ReferenceOptions = { precision, device: this.#device, face, signal };
    const made = list.length === 0 ? [] : await this.#rooms.references.extract(pair, list, options);
    for (const one of made) await makeFeatures(one, signal);
    missing.forEach((reference, i) => {
      reference.features = made[i];
      reference.featuresKey = key;
    });
    return references.flatMap(({ features }) => features ?? []);
  }

  /**
   * References weighed and combined, with what stands against them. Features that are in the feature store are read when
   * somebody looks at them, which `project` does not where it knows their tokens: look at them soon, or they may be gone.
   */
  async blend(
    references: readonly ReferenceImage[],
    options: BlendOptions & ExtractOptions = {},
  ): Promise<IPAdapterEmbeds> {
    const { combine = 'concat', negative, signal } = options;
    if (!COMBINE_MODES.includes(combine))
      throw new InvalidRequestError(`Combine is one of ${COMBINE_MODES.join(', ')}.`);
    const features = await this.#extract(references, options);
    if (features.length === 0) throw new InvalidRequestError('There are no references to blend.');
    const weights = features.flatMap((part, i) => new Array<number>(rowCount(part)).fill(references[i]?.weight ?? 1));
    const cond = blendFeatures(features, weights, combine);
    const provenance = { images: [], settings: { precision: this.#config.precision ?? 'comfy', combine } };
    return this.#rooms.references.complete(
      await this.#pair(signal),
      { kind: 'ipadapter_embeds', cond, provenance },
      {
        precision: this.#config.precision,
        device: this.#device,
        signal,
        ...(negative === undefined ? {} : { negative }),
      },
    );
  }

  /** Image prompt tokens of embeds, and keys and values of the layers asked for. */
  async project(embeds: IPAdapterEmbeds, options: ProjectOptions = {}): Promise<ProjectedEmbeds> {
    const pair = await this.#pair(options.signal);
    const { precision } = this.#config;
    return this.#rooms.references.project(pair, embeds, { device: this.#device, ...options, precision });
  }

  /** Moves the service: the next run is there, and says so if it cannot be (`DEVICE_UNAVAILABLE`). */
  to(device: Device): this {
    this.#device = device;
    return this;
  }

  async #requireAdapter(): Promise<IPAdapterModel> {
    return this.#adapter ?? (await this.loadIPAdapter());
  }

  async #pair(signal: AbortSignal | undefined): Promise<AdapterPair> {
    const adapter = await this.#requireAdapter();
    const encoder =
      adapter.encoder === undefined ? undefined : (this.#encoder ?? (await this.loadClipVision(undefined, signal)));
    const faces = adapter.face === undefined ? undefined : (this.#faces ?? (await this.loadFaces()));
    return { adapter, encoder, faces };
  }
}

/** A pack by name, or the first that is complete. @throws {ModelNotFoundError} naming the folders and what each lacks */
export async function openFacePack(faces: FaceEngine, packs: ModelSource, name?: string): Promise<FaceModel> {
  if (name !== undefined) return faces.open(await locate(packs, name));
  const refusals: string[] = [];
  for (const { path } of await packs.list()) {
    try {
      return await faces.open(path);
    } catch (error) {
      if (!(error instanceof ModelNotFoundError)) throw error;
      refusals.push(error.message);
    }
  }
  throw new ModelNotFoundError(
    `Found no face networks. Looked for packs such as buffalo_l or antelopev2 in ${placesOf(packs)}. ${refusals.join(' ')}`.trim(),
    { details: { searched: packs.places(), refusals } },
  );
}

/** A path stands for itself. Names that come over HTTP never get here: they go through the source, which contains them. */
async function locate(source: ModelSource, nameOrPath: string): Promise<string> {
  return isAbsolute(nameOrPath) ? nameOrPath : source.resolve(nameOrPath);
}

function placesOf(source: ModelSource): string {
  return source.places().join(', ') || 'no folder';
}
