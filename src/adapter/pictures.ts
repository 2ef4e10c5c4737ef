/**
 * Pictures to what a projection takes: encoded whole or in tiles, masked or not.
 *
 * Whole pictures are looked at first and read or encoded only when somebody wants their features: see feature-rows.ts.
 */
import { stat } from 'node:fs/promises';
import pMap from 'p-map';
import { BridgeError, InvalidRequestError } from '../common/errors.js';
import { readImageInput, type ImageInput } from '../image/index.js';
import type { Device } from '../runtime/index.js';
import { f32Tensor, u8Tensor, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import {
  OUTPUT_FIELDS,
  type NamedFeatures,
  type NamedPictures,
  type Precision,
  type VisionEngine,
  type VisionInput,
  type VisionModel,
} from '../vision/index.js';
import type { AdapterEngine } from './engine.js';
import { copyOf, pictureRows, unreadFeatures, type AdapterFeatures, type FeatureRows } from './feature-rows.js';
import type { EncoderNeed } from './model.js';

/** Pictures and how much they count. */
export interface Reference {
  /** `[B, H, W, C]`, RGB(A), u8 or f32 in 0..1; or an image in any of its forms, which is decoded only if need be. */
  readonly images: F32Tensor | U8Tensor | ImageInput;
  /** Multiplies the features, of all pictures or of each; default 1. A list that is too short repeats its last. */
  readonly weight?: number | readonly number[] | undefined;
  /** f32 `[M, H, W]`, one for all pictures or one for each: where it is 0, the encoder sees its mean colour. */
  readonly mask?: F32Tensor | undefined;
}

export interface PictureOptions {
  readonly output: EncoderNeed['output'];
  readonly precision?: Precision | undefined;
  /** Default: the engine's. */
  readonly device?: Device | undefined;
  /** Cut into this many tiles a side, at most 16; default 1. */
  readonly tiles?: number | undefined;
  /** Share of the whole picture beside its tiles; default 1. */
  readonly ratio?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** References that are decoded and resampled at once: it takes memory. */
const LOOKED_AT_ONCE = 4;
/** Black pictures that are remembered: one per encoder in use. */
const MAX_KEPT_BLACKS = 8;

/** Features of a black picture: by name, or as they are while they have none. */
type BlackPicture = { readonly rows: FeatureRows } | { readonly rows: undefined; readonly features: F32Tensor };

/** Pixels of a reference. */
export async function pixelsOf(images: Reference['images'], signal?: AbortSignal): Promise<F32Tensor | U8Tensor> {
  return 'kind' in images ? readImageInput(images, { signal }) : images;
}

/**
 * Features of pictures `[B, H, W, C]`, cropped to their centre square as IPAdapter_plus does.
 *
 * @returns image embeds `[B, E]` or hidden states `[B, N, D]`; with tiles, a single picture gives two rows.
 */
export async function encodePictures(
  vision: VisionEngine,
  model: VisionModel,
  images: F32Tensor | U8Tensor,
  { output, tiles = 1, ratio = 1, ...options }: PictureOptions,
): Promise<F32Tensor> {
  const tiling = tiles > 1 ? { tiles, tilesRatio: ratio } : {};
  const features = (await vision.encode(model, images, { ...settingsOf(options), ...tiling, outputs: [output] }))[
    OUTPUT_FIELDS[output]
  ];
  if (features === undefined) throw new BridgeError('INTERNAL', `the encoder gave no ${output}`);
  return features;
}

export class PictureEncoder {
  readonly #vision: VisionEngine;
  readonly #adapters: AdapterEngine;
  readonly #blacks = new Map<string, Promise<BlackPicture>>();

  constructor(vision: VisionEngine, adapters: AdapterEngine) {
    this.#vision = vision;
    this.#adapters = adapters;
  }

  /**
   * Features of every reference, which are read or made when they are wanted, and those that are made are made together.
   *
   * @throws what the vision engine throws; {InvalidRequestError} for a mask with tiles.
   */
  async encode(
    model: VisionModel,
    references: readonly Reference[],
    options: PictureOptions,
  ): Promise<AdapterFeatures[]> {
    if ((options.tiles ?? 1) > 1) return this.#encodeTiles(model, references, options);
    const look = async ({ images, mask }: Reference): Promise<NamedPictures> => {
      if (mask === undefined) return this.#name(model, images, options);
      const pixels = await pixelsOf(images, options.signal);
      return this.#name(
        model,
        { pixelValues: await this.#adapters.maskPictures(model, pixels, mask, options.signal) },
        options,
      );
    };
    const list = await pMap(references, look, { concurrency: LOOKED_AT_ONCE });
    return this.#featuresOf(list, options.signal);
  }

  /** Named features unread; those without names as they are. */
  async #featuresOf(list: readonly NamedPictures[], signal: AbortSignal | undefined): Promise<AdapterFeatures[]> {
    if (list.some(({ names }) => names === undefined)) {
      const made = await this.#vision.encodeNamed(list, { signal });
      return made.map(({ features }) => ({ image: features }));
    }
    // Whoever asks first has all of them made, together.
    const makeAll = once(async (whose?: AbortSignal) => {
      const missing = list.filter((pictures) => !pictures.isKept());
      const made = await this.#vision.encodeNamed(missing, { signal: whose });
      return new Map(missing.map((pictures, i) => [pictures, made[i]]));
    });
    return list.map((pictures) => {
      const make = async (whose: AbortSignal | undefined): Promise<NamedFeatures> => {
        const made = (await makeAll(whose)).get(pictures) ?? (await this.#vision.encodeNamed([pictures]))[0];
        if (made === undefined) throw new BridgeError('INTERNAL', 'the encoder gave no features');
        return made;
      };
      return unreadFeatures(pictureRows(pictures, pictures.names ?? [], make));
    });
  }

  /** Features of a black picture, one row: they stand against every reference without a negative. */
  async black(
    model: VisionModel,
    options: Omit<PictureOptions, 'tiles' | 'ratio' | 'signal'>,
  ): Promise<AdapterFeatures> {
    const { output, precision, device } = options;
    const key = `${model.path} ${await fileIdentity(model.path)} ${output} ${precision ?? ''} ${device ?? ''}`;
    const known = this.#blacks.get(key);
    let black = await (known ?? this.#remember(key, this.#encodeBlack(model, options)));
    // The weights may have become known since.
    if (known !== undefined && black.rows === undefined)
      black = await this.#remember(key, this.#encodeBlack(model, options, black.features));
    return black.rows === undefined ? { image: copyOf(black.features) } : unreadFeatures(black.rows);
  }

  /** @param features Those that were made already. */
  async #encodeBlack(model: VisionModel, options: PictureOptions, features?: F32Tensor): Promise<BlackPicture> {
    const size = Math.max(1, model.config.imageSize);
    const black = u8Tensor([1, size, size, 3], new Uint8Array(size * size * 3));
    const pictures = await this.#name(model, black, options);
    const encode = async (): Promise<NamedFeatures> => {
      const [made] = features === undefined ? await this.#vision.encodeNamed([pictures]) : [{ features, names }];
      if (made === undefined) throw new BridgeError('INTERNAL', 'the encoder gave nothing for a black picture');
      return made;
    };
    const { names } = pictures;
    if (names === undefined) return { rows: undefined, features: (await encode()).features };
    const encodeOnce = once(encode);
    // Everybody gets a copy of what stays here.
    const make = async (): Promise<NamedFeatures> => {
      const made = await encodeOnce();
      return { ...made, features: copyOf(made.features) };
    };
    return { rows: pictureRows(pictures, names, make) };
  }

  async #remember(key: string, fresh: Promise<BlackPicture>): Promise<BlackPicture> {
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

  async #name(
    model: VisionModel,
    input: ImageInput | VisionInput,
    { output, ...options }: PictureOptions,
  ): Promise<NamedPictures> {
    return this.#vision.name(model, input, { ...settingsOf(options), output });
  }

  async #encodeTiles(
    model: VisionModel,
    references: readonly Reference[],
    options: PictureOptions,
  ): Promise<AdapterFeatures[]> {
    if (references.some(({ mask }) => mask !== undefined))
      throw new InvalidRequestError('A mask and tiles do not go together: the mask belongs to the whole picture.');
    const pictures: (F32Tensor | U8Tensor)[] = [];
    for (const { images } of references) pictures.push(await pixelsOf(images, options.signal));
    // One picture alone becomes a batch of two, itself and its tiles; of several, each is mixed with its tiles.
    const isMixed = pictures.reduce((sum, { shape }) => sum + (shape[0] ?? 0), 0) > 1;
    const features: AdapterFeatures[] = [];
    for (const picture of pictures) {
      const image = await encodePictures(this.#vision, model, picture, options);
      features.push({ image: isMixed && picture.shape[0] === 1 ? mixPair(image, options.ratio ?? 1) : image });
    }
    return features;
  }
}

/** Shares one promise among all who ask; a failure is forgotten. */
function once<A extends unknown[], T>(work: (...args: A) => Promise<T>): (...args: A) => Promise<T> {
  let running: Promise<T> | undefined;
  return async (...args) => {
    running ??= work(...args);
    try {
      return await running;
    } catch (error) {
      running = undefined;
      throw error;
    }
  };
}

function settingsOf({ precision = 'comfy', device, signal }: Omit<PictureOptions, 'output'>): {
  precision: Precision;
  device?: Device;
  signal: AbortSignal | undefined;
} {
  return { precision, signal, ...(device === undefined ? {} : { device }) };
}

/** [ratio · whole, tiles] as ratio · whole + (1 - ratio) · tiles. */
function mixPair({ shape, data }: F32Tensor, ratio: number): F32Tensor {
  const half = data.length / 2;
  const mixed = data.subarray(0, half).map((value, i) => value + (1 - ratio) * (data[half + i] ?? 0));
  return f32Tensor([1, ...shape.slice(1)], mixed);
}

/** A text that changes when a file is written or replaced, and is the same on every host that shares it. */
export async function fileIdentity(path: string): Promise<string> {
  const { size, mtimeMs } = await stat(path);
  return `${size}-${Math.trunc(mtimeMs)}`;
}
