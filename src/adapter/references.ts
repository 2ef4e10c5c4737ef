/**
 * Reference pictures to embeds, and embeds to image prompt tokens: what IPAdapter_plus does before it patches a model.
 *
 * Faces are found and aligned first where the adapter wants them; pictures of one size are encoded in one call.
 */
import { webcrypto } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
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
import { elementCount, f32Tensor, tensorBytes, u8Tensor, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import { joinBatch, type Precision, type VisionEngine, type VisionModel } from '../vision/index.js';
import { combineRows, fitRows, type CombineMode } from './combine.js';
import { mapFeatures, rowCount, weighEmbeds, type EmbedsProvenance, type IPAdapterEmbeds } from './embeds.js';
import type { AdapterEngine, AdapterFeatures, IPAdapterTokens, ProjectOptions } from './engine.js';
import type { IPAdapterModel } from './model.js';
import type { NoiseOptions } from './noise.js';
import { requirePair } from './pairing.js';
import { encodePictures, type PictureOptions } from './pictures.js';

/** Pictures and how much they count. */
export interface Reference {
  /** `[B, H, W, C]`, RGB(A), u8 or f32 in 0..1. */
  readonly images: F32Tensor | U8Tensor;
  /** Multiplies the features, of all pictures or of each; default 1. A list that is too short repeats its last. */
  readonly weight?: number | readonly number[] | undefined;
  /** f32 `[M, H, W]`, one for all pictures or one for each: where it is 0, the encoder sees its mean colour. */
  readonly mask?: F32Tensor | undefined;
}

/** An adapter with what it reads pictures with. */
export interface AdapterPair {
  readonly adapter: IPAdapterModel;
  readonly encoder?: VisionModel | undefined;
  readonly faces?: FaceModel | undefined;
}

/** What stands against the references; default: nothing for image embeds, a black picture for hidden states. */
export type Negative =
  | { readonly kind: 'images'; readonly images: F32Tensor | U8Tensor }
  /** Noise over a picture, or over black. */
  | { readonly kind: 'noise'; readonly noise: NoiseOptions; readonly picture?: F32Tensor | undefined };

export interface ReferenceOptions {
  readonly precision?: Precision | undefined;
  /** Where encoder and adapter run; default the engine's own. */
  readonly device?: Device | undefined;
  /** Default `concat`. */
  readonly combine?: CombineMode | undefined;
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

/** Black pictures' features that are kept: one per encoder in use. */
const MAX_KEPT_BLACKS = 8;
const MAX_REFERENCES = 256;

export class ReferenceEncoder {
  readonly #adapters: AdapterEngine;
  readonly #vision: VisionEngine;
  readonly #faces: FaceEngine;
  readonly #blacks = new Map<string, Promise<F32Tensor>>();

  constructor(adapters: AdapterEngine, vision: VisionEngine, faces: FaceEngine) {
    this.#adapters = adapters;
    this.#vision = vision;
    this.#faces = faces;
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
    const parts = await this.extract(pair, references, options);
    const weights = parts.flatMap((part, i) => weightsOf(references[i]?.weight, rowCount(part)));
    const stacked = stackFeatures(parts);
    const weighed = weighEmbeds(
      { kind: 'ipadapter_embeds', cond: stacked, provenance: await provenanceOf(pair, references, options) },
      weights,
    );
    const mode = options.combine ?? 'concat';
    const cond = mapFeatures(weighed.cond, (tensor) => combineRows(tensor, mode));
    const uncond = await this.#against(pair, cond, options);
    return { ...weighed, cond, uncond };
  }

  /** Embeds with what stands against them: theirs, or what IPAdapter_plus would make. */
  async complete(
    pair: AdapterPair,
    embeds: IPAdapterEmbeds,
    options: ReferenceOptions = {},
  ): Promise<IPAdapterEmbeds & { readonly uncond: AdapterFeatures }> {
    const rows = rowCount(embeds.cond);
    const uncond = embeds.uncond ?? (await this.#against(pair, embeds.cond, options));
    return { ...embeds, uncond: mapFeatures(uncond, (tensor) => fitRows(tensor, rows)) };
  }

  /** Image prompt tokens of embeds, of both halves in one run. */
  async project(
    pair: AdapterPair,
    embeds: IPAdapterEmbeds,
    options: ProjectOptions & Pick<ReferenceOptions, 'precision'> = {},
  ): Promise<ProjectedEmbeds> {
    const { cond, uncond } = await this.complete(pair, embeds, options);
    const rows = rowCount(cond);
    const both = await this.#adapters.project(pair.adapter, stackFeatures([cond, uncond]), options);
    const half = (first: number): IPAdapterTokens => ({
      tokens: sliceRows(both.tokens, first, rows),
      layers: new Map(
        [...both.layers].map(([layer, { keys, values }]) => [
          layer,
          { keys: sliceRows(keys, first, rows), values: sliceRows(values, first, rows) },
        ]),
      ),
    });
    return { cond: half(0), uncond: half(rows) };
  }

  /** Features of every reference, as they are: neither weighed nor combined. */
  async extract(
    { adapter, encoder, faces }: AdapterPair,
    references: readonly Reference[],
    options: ReferenceOptions = {},
  ): Promise<AdapterFeatures[]> {
    if (references.length === 0 || references.length > MAX_REFERENCES)
      throw new InvalidRequestError(`1 to ${MAX_REFERENCES} reference pictures are taken, got ${references.length}.`);
    const found =
      adapter.face === undefined
        ? undefined
        : await this.#findFaces(adapter, requireFaces(adapter, faces), references, options);
    const embeddings = found?.map((list) => faceTensor(adapter, list));
    if (adapter.encoder === undefined) return (embeddings ?? []).map((face) => ({ face }));
    const pictures = found === undefined ? references : found.map((list) => ({ images: joinCrops(list) }));
    if (found !== undefined && (options.tiles ?? 1) > 1)
      throw new InvalidRequestError('Tiles do not go with an adapter of faces: a face is one piece.');
    const images = await this.#pictures(adapter, requireEncoder(adapter, encoder), pictures, options);
    return images.map((image, i) => {
      const face = embeddings?.[i];
      return { image, ...(face === undefined ? {} : { face }) };
    });
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
      found.push(await this.#faces.find(model, images, { choice, cropSize, signal }));
    return found;
  }

  /** Features of every reference. Pictures of one size go to the encoder together. */
  async #pictures(
    { encoder: need }: IPAdapterModel,
    encoder: VisionModel,
    references: readonly Reference[],
    { precision, device, tiles, ratio, signal }: ReferenceOptions,
  ): Promise<F32Tensor[]> {
    const output = need?.output ?? 'image_embeds';
    const settings = { output, precision, device, tiles, ratio, signal };
    const results = new Array<F32Tensor | undefined>(references.length);
    const groups = new Map<string, number[]>();
    references.forEach(({ images, mask }, i) => {
      const isAlone = mask !== undefined || (tiles ?? 1) > 1;
      const key = isAlone ? `alone ${i}` : `${images.dtype} ${images.shape.slice(1).join()}`;
      groups.set(key, [...(groups.get(key) ?? []), i]);
    });
    // One picture alone becomes a batch of two, itself and its tiles; of several, each is mixed with its tiles.
    const total = references.reduce((sum, { images }) => sum + (images.shape[0] ?? 0), 0);
    const isMixed = (tiles ?? 1) > 1 && total > 1;
    for (const members of groups.values()) {
      const pictures = members.map((i) => references[i]?.images).filter((images) => images !== undefined);
      const mask = references[members[0] ?? 0]?.mask;
      const images = joinPictures(pictures);
      if (mask !== undefined && (tiles ?? 1) > 1)
        throw new InvalidRequestError('A mask and tiles do not go together: the mask belongs to the whole picture.');
      const features =
        mask === undefined
          ? await encodePictures(this.#vision, encoder, images, settings)
          : await encodePictures(
              this.#vision,
              encoder,
              { pixelValues: await this.#adapters.maskPictures(encoder, images, mask, signal) },
              settings,
            );
      let first = 0;
      for (const [place, i] of members.entries()) {
        const rows = members.length === 1 ? (features.shape[0] ?? 0) : (pictures[place]?.shape[0] ?? 0);
        const own = sliceRows(features, first, rows);
        results[i] = isMixed && pictures[place]?.shape[0] === 1 ? mixPair(own, ratio ?? 1) : own;
        first += rows;
      }
    }
    return results.filter((result) => result !== undefined);
  }

  async #against(
    { adapter, encoder }: AdapterPair,
    cond: AdapterFeatures,
    { negative, precision = 'comfy', device, signal }: ReferenceOptions,
  ): Promise<AdapterFeatures> {
    const rows = rowCount(cond);
    const face = cond.face === undefined ? {} : { face: zerosLike(cond.face) };
    if (adapter.encoder === undefined || cond.image === undefined) return face;
    const { output } = adapter.encoder;
    if (negative === undefined && output === 'image_embeds') return { ...face, image: zerosLike(cond.image) };
    const model = requireEncoder(adapter, encoder);
    if (negative === undefined) {
      const black = await abortable(this.#black(model, { output, precision, device }), signal);
      return { ...face, image: fitRows(black, rows) };
    }
    const size = Math.max(1, model.config.imageSize);
    const pictures =
      negative.kind === 'images'
        ? negative.images
        : await this.#adapters.noisePicture(size, negative.noise, negative.picture, signal);
    const image = await encodePictures(this.#vision, model, pictures, { output, precision, device, signal });
    return { ...face, image: fitRows(image, rows) };
  }

  /** Features of a black picture, kept per encoder file: they stand against every reference without a negative. */
  async #black(model: VisionModel, options: PictureOptions): Promise<F32Tensor> {
    const { output, precision, device } = options;
    const key = `${model.path} ${await fileIdentity(model.path)} ${output} ${precision ?? ''} ${device ?? ''}`;
    const known = this.#blacks.get(key);
    if (known !== undefined) return known;
    const size = Math.max(1, model.config.imageSize);
    const black = u8Tensor([1, size, size, 3], new Uint8Array(size * size * 3));
    const fresh = encodePictures(this.#vision, model, black, options);
    for (const oldest of this.#blacks.keys()) {
      if (this.#blacks.size < MAX_KEPT_BLACKS) break;
      this.#blacks.delete(oldest);
    }
    this.#blacks.set(key, fresh);
    try {
      return await fresh;
    } catch (error) {
      this.#blacks.delete(key);
      throw error;
    }
  }
}

function weightsOf(weight: Reference['weight'], rows: number): number[] {
  const list = typeof weight === 'object' ? weight : [weight ?? 1];
  return Array.from({ length: rows }, (_none, row) => list[row] ?? list.at(-1) ?? 1);
}

/** A text that changes when a file is written or replaced, and is the same on every host that shares it. */
async function fileIdentity(path: string): Promise<string> {
  const { size, mtimeMs } = await stat(path);
  return `${size}-${Math.trunc(mtimeMs)}`;
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

/** Pictures of one size and dtype as one batch. */
function joinPictures(list: readonly (F32Tensor | U8Tensor)[]): F32Tensor | U8Tensor {
  const [first] = list;
  if (first === undefined) throw new InvalidRequestError('There are no pictures.');
  if (list.length === 1) return first;
  const rest = first.shape.slice(1);
  const shape = [list.reduce((sum, { shape: [rows = 0] }) => sum + rows, 0), ...rest];
  const length = elementCount(shape);
  const data = first.dtype === 'U8' ? new Uint8Array(length) : new Float32Array(length);
  let position = 0;
  for (const picture of list) {
    data.set(picture.data, position);
    position += picture.data.length;
  }
  return data instanceof Uint8Array ? u8Tensor(shape, data) : f32Tensor(shape, data);
}

function stackFeatures(list: readonly AdapterFeatures[]): AdapterFeatures {
  const images = list.flatMap(({ image }) => image ?? []);
  const faces = list.flatMap(({ face }) => face ?? []);
  return {
    ...(images.length === 0 ? {} : { image: joinBatch(images) }),
    ...(faces.length === 0 ? {} : { face: joinBatch(faces) }),
  };
}

/** [ratio · whole, tiles] as ratio · whole + (1 - ratio) · tiles. */
function mixPair({ shape, data }: F32Tensor, ratio: number): F32Tensor {
  const half = data.length / 2;
  const mixed = data.subarray(0, half).map((value, i) => value + (1 - ratio) * (data[half + i] ?? 0));
  return f32Tensor([1, ...shape.slice(1)], mixed);
}

function sliceRows({ shape, data }: F32Tensor, first: number, rows: number): F32Tensor {
  const length = elementCount(shape.slice(1));
  return f32Tensor([rows, ...shape.slice(1)], data.subarray(first * length, (first + rows) * length));
}

function zerosLike({ shape, data }: F32Tensor): F32Tensor {
  return f32Tensor(shape, new Float32Array(data.length));
}

async function provenanceOf(
  { adapter, encoder }: AdapterPair,
  references: readonly Reference[],
  { precision = 'comfy', combine = 'concat', negative, tiles = 1, ratio = 1 }: ReferenceOptions,
): Promise<EmbedsProvenance> {
  const images: string[] = [];
  for (const { images: picture } of references) images.push(await hashPicture(picture));
  const { path, variant } = adapter;
  const adapterEntry = { name: basename(path), variant, identity: await fileIdentity(path) };
  const encoderEntry =
    encoder === undefined
      ? {}
      : {
          encoder: {
            name: basename(encoder.path),
            family: encoder.family,
            identity: await fileIdentity(encoder.path),
          },
        };
  const settings = {
    precision,
    combine,
    negative: negative?.kind ?? 'default',
    weights: references.flatMap(({ weight, images: picture }) => weightsOf(weight, picture.shape[0] ?? 0)),
    masked: references.some(({ mask }) => mask !== undefined),
    ...(tiles > 1 ? { tiles, ratio } : {}),
  };
  return { adapter: adapterEntry, ...encoderEntry, images, settings };
}

/** sha256 of dtype, shape and values. Computed on another thread. */
async function hashPicture(picture: F32Tensor | U8Tensor): Promise<string> {
  const head = new TextEncoder().encode(`${picture.dtype} ${picture.shape.join()} `);
  const body = tensorBytes(picture);
  const bytes = new Uint8Array(head.length + body.length);
  bytes.set(head);
  bytes.set(body, head.length);
  return Buffer.from(await webcrypto.subtle.digest('SHA-256', bytes)).toString('hex');
}
