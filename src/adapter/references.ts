/**
 * Reference pictures to embeds, and embeds to image prompt tokens: what IPAdapter_plus does before it patches a model.
 *
 * Faces are found and aligned first where the adapter wants them. From pictures straight to tokens, features are neither
 * made nor read where the tokens are kept.
 */
import { abortable } from '../common/abort.js';
import { BridgeError, InvalidRequestError } from '../common/errors.js';
import {
  normalizeEmbedding,
  type FaceChoice,
  type FaceEngine,
  type FaceModel,
  type FoundFace,
} from '../faces/index.js';
import type { Device } from '../runtime/index.js';
import { elementCount, f32Tensor, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import { joinPictures, joinBatch, type Precision, type VisionEngine, type VisionModel } from '../vision/index.js';
import { fitRows, type CombineMode } from './combine.js';
import type { IPAdapterEmbeds } from './embeds.js';
import type { AdapterEngine, IPAdapterTokens, ProjectOptions } from './engine.js';
import {
  makeFeatures,
  readFeatures,
  unreadFeatures,
  unreadRows,
  zeroEmbeds,
  type AdapterFeatures,
} from './feature-rows.js';
import { blendFeatures, fitFeatures, rowCount } from './features.js';
import type { IPAdapterModel } from './model.js';
import type { NoiseOptions } from './noise.js';
import { requirePair } from './pairing.js';
import { PictureEncoder, pixelsOf, type Reference } from './pictures.js';
import { provenanceOf } from './provenance.js';

/** An adapter with what it reads pictures with. */
export interface AdapterPair {
  readonly adapter: IPAdapterModel;
  readonly encoder?: VisionModel | undefined;
  readonly faces?: FaceModel | undefined;
}

/** What stands against the references; default: nothing for image embeds, a black picture for hidden states. */
export type Negative =
  | { readonly kind: 'images'; readonly images: Reference['images'] }
  /** Noise over a picture, or over black. */
  | { readonly kind: 'noise'; readonly noise: NoiseOptions; readonly picture?: F32Tensor | undefined };

export interface ReferenceOptions {
  readonly precision?: Precision | undefined;
  /** Where encoder and adapter run; default the engine's own. */
  readonly device?: Device | undefined;
  /** Default `concat`. */
  readonly combine?: CombineMode | undefined;
  /**
   * One for each picture of all references, in place of the references' own. A list that is too short repeats its last; one
   * that is too long is refused.
   */
  readonly weights?: readonly number[] | undefined;
  readonly negative?: Negative | undefined;
  /** Cut every picture into this many tiles a side; default 1. Not with faces. */
  readonly tiles?: number | undefined;
  /** Share of the whole picture beside its tiles; default 1. */
  readonly ratio?: number | undefined;
  /** Which face of a picture; default the one with the best score. */
  readonly face?: FaceChoice | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Tokens for both halves of a guided step. */
export interface ProjectedEmbeds {
  readonly cond: IPAdapterTokens;
  readonly uncond: IPAdapterTokens;
}

const MAX_REFERENCES = 256;

export class ReferenceEncoder {
  readonly #adapters: AdapterEngine;
  readonly #faces: FaceEngine;
  readonly #pictures: PictureEncoder;

  constructor(adapters: AdapterEngine, vision: VisionEngine, faces: FaceEngine) {
    this.#adapters = adapters;
    this.#faces = faces;
    this.#pictures = new PictureEncoder(vision, adapters);
  }

  /**
   * Features of references, weighed and combined, and of what stands against them.
   *
   * @throws {BridgeError} `PAIR_MISMATCH`; `FACE_NOT_FOUND`; {InvalidRequestError}; what the engines throw.
   */
  async encode(
    pair: AdapterPair,
    references: readonly Reference[],
    options: ReferenceOptions = {},
  ): Promise<IPAdapterEmbeds> {
    const { signal } = options;
    checkCount(references);
    const decoded: (Omit<Reference, 'images'> & { readonly images: F32Tensor | U8Tensor })[] = [];
    for (const reference of references)
      decoded.push({ ...reference, images: await pixelsOf(reference.images, signal) });
    const parts = await this.extract(pair, decoded, options);
    const cond = await readFeatures(
      blendFeatures(parts, weightsOf(parts.map(rowCount), references, options), options.combine ?? 'concat'),
      signal,
    );
    const against = fitFeatures(await this.#against(pair, cond, options), rowCount(cond));
    const uncond = await readFeatures(against, signal);
    const pictures = decoded.map(({ images, mask }) => ({ pixels: images, isMasked: mask !== undefined }));
    const counts = decoded.map(({ images }) => images.shape[0] ?? 0);
    const provenance = await provenanceOf(pair, pictures, weightsOf(counts, references, options), options);
    return { kind: 'ipadapter_embeds', cond, uncond, provenance };
  }

  /**
   * Image prompt tokens of references. A reference whose tokens are kept is neither encoded nor projected, and one that
   * comes as an image file is not even decoded.
   *
   * @throws what `encode` and `project` throw
   */
  async projectReferences(
    pair: AdapterPair,
    references: readonly Reference[],
    options: ReferenceOptions & ProjectOptions = {},
  ): Promise<ProjectedEmbeds> {
    const parts = await this.extract(pair, references, options);
    const weights = weightsOf(parts.map(rowCount), references, options);
    const cond = blendFeatures(parts, weights, options.combine ?? 'concat');
    return this.#project(pair, cond, await this.#against(pair, cond, options), options);
  }

  /**
   * Embeds with what stands against them: theirs, or what IPAdapter_plus would make. Features that nobody looked at stay
   * unread.
   */
  async complete(
    pair: AdapterPair,
    embeds: IPAdapterEmbeds,
    options: ReferenceOptions = {},
  ): Promise<IPAdapterEmbeds & { readonly uncond: AdapterFeatures }> {
    const uncond = embeds.uncond ?? (await this.#against(pair, embeds.cond, options));
    await makeFeatures(uncond, options.signal);
    return { ...embeds, uncond: fitFeatures(uncond, rowCount(embeds.cond)) };
  }

  /** Image prompt tokens of embeds, of both halves in one run. */
  async project(
    pair: AdapterPair,
    { cond, uncond }: IPAdapterEmbeds,
    options: ProjectOptions & Pick<ReferenceOptions, 'precision'> = {},
  ): Promise<ProjectedEmbeds> {
    return this.#project(pair, cond, uncond ?? (await this.#against(pair, cond, options)), options);
  }

  async #project(
    { adapter }: AdapterPair,
    cond: AdapterFeatures,
    uncond: AdapterFeatures,
    options: ProjectOptions,
  ): Promise<ProjectedEmbeds> {
    const rows = rowCount(cond);
    // The last of what stands against them stands against all that are left: its tokens are repeated, not its features.
    const against = fitFeatures(uncond, Math.min(rows, rowCount(uncond)));
    const [own, other] = await this.#adapters.projectAll(adapter, [cond, against], options);
    if (own === undefined || other === undefined) throw new BridgeError('INTERNAL', 'the adapter gave no tokens');
    return { cond: own, uncond: fitTokens(other, rows) };
  }

  /**
   * Features of every reference, as they are: neither weighed nor combined. Those that have names are read or made only
   * when they are wanted; see feature-rows.ts.
   */
  async extract(
    { adapter, encoder, faces }: AdapterPair,
    references: readonly Reference[],
    options: ReferenceOptions = {},
  ): Promise<AdapterFeatures[]> {
    checkCount(references);
    const { encoder: need, face } = adapter;
    const { precision, device, tiles, ratio, signal } = options;
    const settings = { output: need?.output ?? 'image_embeds', precision, device, tiles, ratio, signal };
    if (face === undefined) {
      if (need === undefined) return [];
      return this.#pictures.encode(requireEncoder(adapter, encoder), references, settings);
    }
    const found = await this.#findFaces(adapter, requireFaces(adapter, faces), references, options);
    const embeddings = found.map((list) => faceTensor(adapter, list));
    if (need === undefined) return embeddings.map((embedding) => ({ face: embedding }));
    if ((tiles ?? 1) > 1)
      throw new InvalidRequestError('Tiles do not go with an adapter of faces: a face is one piece.');
    const crops = found.map((list) => ({ images: joinCrops(list) }));
    const images = await this.#pictures.encode(requireEncoder(adapter, encoder), crops, settings);
    return Promise.all(
      embeddings.map(async (embedding, i) => ({ ...(await readFeatures(images[i] ?? {}, signal)), face: embedding })),
    );
  }

  async #findFaces(
    { face }: IPAdapterModel,
    model: FaceModel,
    references: readonly Reference[],
    { face: choice = 'first', signal }: ReferenceOptions,
  ): Promise<(readonly FoundFace[])[]> {
    const found: (readonly FoundFace[])[] = [];
    const cropSize = face?.cropSize ?? 224;
    for (const { images } of references)
      found.push(await this.#faces.find(model, await pixelsOf(images, signal), { choice, cropSize, signal }));
    return found;
  }

  /** What stands against features: as many rows as differ, of which the last stands against all that are left. */
  async #against(
    { adapter, encoder }: AdapterPair,
    cond: AdapterFeatures,
    { negative, precision, device, signal }: ReferenceOptions,
  ): Promise<AdapterFeatures> {
    const isUnread = unreadRows(cond) !== undefined;
    const ownFace = isUnread || cond.face === undefined ? undefined : zeroRow(cond.face.shape);
    const face = ownFace === undefined ? {} : { face: ownFace };
    if (adapter.encoder === undefined || (!isUnread && cond.image === undefined)) return face;
    if (negative === undefined && adapter.encoder.output === 'image_embeds') {
      return isUnread || cond.image === undefined
        ? unreadFeatures(zeroEmbeds(adapter.encoder.width))
        : { ...face, image: zeroRow(cond.image.shape) };
    }
    const image = await this.#imageAgainst(adapter, encoder, { negative, precision, device, signal });
    if (ownFace === undefined) return image;
    const read = await readFeatures(image, signal);
    return { ...read, face: fitRows(ownFace, rowCount(read)) };
  }

  async #imageAgainst(
    adapter: IPAdapterModel,
    encoder: VisionModel | undefined,
    { negative, precision = 'comfy', device, signal }: ReferenceOptions,
  ): Promise<AdapterFeatures> {
    const { output = 'image_embeds' } = adapter.encoder ?? {};
    const model = requireEncoder(adapter, encoder);
    const settings = { output, precision, device };
    if (negative === undefined) return abortable(this.#pictures.black(model, settings), signal);
    const size = Math.max(1, model.config.imageSize);
    const images =
      negative.kind === 'images'
        ? negative.images
        : await this.#adapters.noisePicture(size, negative.noise, negative.picture, signal);
    const [features = {}] = await this.#pictures.encode(model, [{ images }], { ...settings, signal });
    return features;
  }
}

/** A weight for every picture, of which each reference has so many. */
function weightsOf(
  counts: readonly number[],
  references: readonly Reference[],
  { weights }: ReferenceOptions,
): number[] {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (weights !== undefined) {
    if (weights.length > total)
      throw new InvalidRequestError(
        `${weights.length} weights are given for ${total} ${total === 1 ? 'picture' : 'pictures'}.`,
      );
    return fillWeights(weights, total);
  }
  return counts.flatMap((count, i) => {
    const weight = references[i]?.weight ?? 1;
    return fillWeights(typeof weight === 'object' ? weight : [weight], count);
  });
}

function fillWeights(list: readonly number[], count: number): number[] {
  return Array.from({ length: count }, (_none, row) => list[row] ?? list.at(-1) ?? 1);
}

function checkCount(references: readonly Reference[]): void {
  if (references.length === 0 || references.length > MAX_REFERENCES)
    throw new InvalidRequestError(`1 to ${MAX_REFERENCES} reference pictures are taken, got ${references.length}.`);
}

function requireEncoder(adapter: IPAdapterModel, encoder: VisionModel | undefined): VisionModel {
  if (encoder === undefined)
    throw new InvalidRequestError(`${adapter.label} reads pictures with a vision encoder, and none was given.`);
  requirePair(adapter, encoder);
  return encoder;
}

function requireFaces(adapter: IPAdapterModel, faces: FaceModel | undefined): FaceModel {
  if (faces !== undefined) return faces;
  throw new InvalidRequestError(
    `${adapter.label} wants faces, and no face networks were given: put a pack such as buffalo_l or antelopev2 into models/insightface/models.`,
  );
}

/** `[B, 1, F]`, normed or not as the adapter wants it. */
function faceTensor({ face, label }: IPAdapterModel, found: readonly FoundFace[]): F32Tensor {
  const rows = found.map(({ embedding }) => {
    if (face !== undefined && embedding.data.length !== face.width) {
      throw new BridgeError(
        'PAIR_MISMATCH',
        `${label} takes face embeddings of ${face.width} values; this recogniser gives ${embedding.data.length}.`,
      );
    }
    const { data } = face?.isNormed === false ? embedding : normalizeEmbedding(embedding);
    return f32Tensor([1, 1, data.length], data);
  });
  return joinBatch(rows);
}

function joinCrops(found: readonly FoundFace[]): U8Tensor {
  const crops = found.flatMap(({ crop }) => crop ?? []);
  const joined = joinPictures(crops);
  if (joined.dtype !== 'U8' || crops.length !== found.length)
    throw new BridgeError('INTERNAL', 'a face came without its crop');
  return joined;
}

/** As many rows as wanted: the last one repeated. */
function fitTokens({ tokens, layers }: IPAdapterTokens, rows: number): IPAdapterTokens {
  const fitted = [...layers].map(
    ([layer, { keys, values }]) => [layer, { keys: fitRows(keys, rows), values: fitRows(values, rows) }] as const,
  );
  return { tokens: fitRows(tokens, rows), layers: new Map(fitted) };
}

function zeroRow([, ...sides]: readonly number[]): F32Tensor {
  return f32Tensor([1, ...sides], new Float32Array(elementCount(sides)));
}
