/**
 * From a header to an adapter: which projection it has, what it needs, and proof that every tensor is there in its shape.
 *
 * Keys and shapes decide. Two things cannot be told from them and are taken from the path, as IPAdapter_plus does:
 * whether a FaceID-plus file is of the second version (`plusv2`), and whether a portrait file wants the face's embedding
 * as it is (`unnorm`; also known by its 512 wide input, which no encoder's hidden states have).
 */
import { basename, join } from 'node:path';
import { ModelFormatError } from '../common/errors.js';
import { stampKey, type ModelHeader, type TensorInfo } from '../formats/index.js';
import { elementCount, type Shape } from '../tensor/tensor.js';
import { FAMILIES, type AdapterFamily, type ProjectionSizes, type Projector } from './families/index.js';
import { layerNumbers, sortKeys, type AdapterKeys } from './keys.js';

export type IPAdapterVariant =
  | 'base'
  | 'plus'
  | 'full_face'
  | 'faceid'
  | 'faceid_plus'
  | 'faceid_plus_v2'
  | 'faceid_portrait'
  | 'faceid_portrait_unnorm';

/** What an adapter wants of a vision encoder. */
export interface EncoderNeed {
  readonly output: 'image_embeds' | 'penultimate_hidden_states';
  readonly width: number;
  /** Side of the pictures that it was trained with, in pixels. */
  readonly imageSize: 224 | 336;
}

/** What an adapter wants of a face recogniser. */
interface FaceNeed {
  /** Width of the embedding: 512 in all published files. */
  readonly width: number;
  readonly isNormed: boolean;
  /** Side of the aligned crop that goes to the vision encoder, in pixels. */
  readonly cropSize: 224 | 256 | 336;
}

/** What is known of an adapter from its header; plain data, cheap to keep and to send. */
export interface IPAdapterModel {
  /** Real path of the file. */
  readonly path: string;
  readonly variant: IPAdapterVariant;
  /** Shown to people: `IP-Adapter plus (also plus-face, composition) for SDXL`. */
  readonly label: string;
  readonly projector: Projector;
  /** Undefined where the width of the context is that of no base model known here. */
  readonly baseModel: 'sd15' | 'sdxl' | 'kolors' | undefined;
  readonly layout: AdapterKeys['layout'];
  /** Image prompt tokens per picture; undefined: as many as the encoder has. */
  readonly tokens: number | undefined;
  /** Width of a token. */
  readonly tokenWidth: number;
  /** Width that the layers read: that of the text context. Other than a token's only in Kolors FaceID. */
  readonly contextWidth: number;
  readonly innerWidth: number;
  readonly encoder: EncoderNeed | undefined;
  readonly face: FaceNeed | undefined;
  /** Numbers of the attention layers with keys and values. */
  readonly layers: readonly number[];
  /** LoRA matrices for the diffusion model are in the file too. They are not applied: load the companion LoRA. */
  readonly hasLora: boolean;
  readonly parameters: number;
  readonly projectionParameters: number;
  /** dtypes of the tensors, most bytes first. */
  readonly dtypes: readonly string[];
  /** Real paths of all files that hold its tensors, the one that was opened first. */
  readonly files: readonly string[];
  /** Names the state of these files. */
  readonly stamp: string;
}

export interface AdapterOptions {
  /** Whether a FaceID-plus file is of the second version; default: as the path says. */
  readonly isFaceIdV2?: boolean | undefined;
}

/** An adapter together with what building its graphs needs. */
export interface ResolvedAdapter {
  readonly model: IPAdapterModel;
  readonly family: AdapterFamily;
  readonly sizes: ProjectionSizes;
  readonly keys: AdapterKeys;
  /** Real path of the folder in which all bytes of tensors lie. */
  readonly folder: string;
}

const SDXL_WIDTH = 2048;
const SD15_WIDTH = 768;
const KOLORS_FACEID_WIDTH = 4096;
/** Width of every published face embedding; hidden states of that width do not exist. */
const FACE_WIDTH = 512;
const LORA = /^\d+\.to_[a-z]+_lora\./;
const COMPUTED_DTYPES = ['F32', 'F16', 'BF16'];

/**
 * Recognises an adapter and checks all that its projection and its layers need.
 *
 * @throws {ModelFormatError} `ADAPTER_UNKNOWN`, saying what was looked for; `TENSOR_MISSING`; `TENSOR_INVALID`.
 */
export function resolveAdapter(header: ModelHeader, options: AdapterOptions = {}): ResolvedAdapter {
  const keys = sortKeys(header.tensors);
  const label = basename(header.path);
  const family = FAMILIES.find((candidate) => candidate.matches(keys.projection));
  const layers = layerNumbers(keys.attention);
  if (family === undefined || layers.length === 0) throw unknownAdapter(header, keys, layers.length > 0);
  try {
    const sizes = family.sizes(keys.projection);
    for (const [name, shape] of family.needs(sizes)) checkTensor(keys.projection.get(name), name, shape);
    checkLayers(keys.attention, layers, sizes);
    return {
      model: describe(header, keys, layers, family, sizes, options),
      family,
      sizes,
      keys,
      folder: header.folder,
    };
  } catch (error) {
    if (!(error instanceof ModelFormatError)) throw error;
    throw new ModelFormatError(error.code, `${label} is an IP-Adapter (${family.projector}), but: ${error.message}`, {
      details: { ...error.details, path: header.path },
      cause: error,
    });
  }
}

function describe(
  { path, folder, stamp }: ModelHeader,
  keys: AdapterKeys,
  layers: readonly number[],
  { projector }: AdapterFamily,
  sizes: ProjectionSizes,
  { isFaceIdV2 }: AdapterOptions,
): IPAdapterModel {
  const { attention, projection } = keys;
  const lowerPath = path.toLowerCase();
  const contextWidth = attention.get(`${layers[0] ?? 1}.to_k_ip.weight`)?.shape[1] ?? 0;
  const hasLora = [...attention.keys()].some((name) => LORA.test(name));
  const isUnnorm = projector === 'resampler' && (lowerPath.includes('unnorm') || sizes.imageWidth === FACE_WIDTH);
  const isKolorsFace = projector === 'faceid-plus' && sizes.innerWidth === KOLORS_FACEID_WIDTH;
  const isKolors =
    isKolorsFace || (contextWidth === SDXL_WIDTH && projector === 'resampler' && sizes.innerWidth === SDXL_WIDTH);
  const isSecond = isKolorsFace || (isFaceIdV2 ?? lowerPath.includes('plusv2'));
  const variant = variantOf(projector, { isUnnorm, isSecond, hasLora });
  const baseModel = isKolors
    ? 'kolors'
    : contextWidth === SDXL_WIDTH
      ? 'sdxl'
      : contextWidth === SD15_WIDTH
        ? 'sd15'
        : undefined;
  const faceWidth = isUnnorm ? sizes.imageWidth : sizes.faceWidth;
  const encoderWidth = isUnnorm ? undefined : sizes.imageWidth;
  const all = [...projection.values(), ...attention.values()];
  return {
    path,
    variant,
    label: `${VARIANT_LABELS[variant]}${baseModel === undefined ? '' : ` for ${BASE_LABELS[baseModel]}`}`,
    projector,
    baseModel,
    layout: keys.layout,
    tokens: sizes.tokens,
    tokenWidth: sizes.contextWidth,
    contextWidth,
    innerWidth: sizes.innerWidth,
    encoder:
      encoderWidth === undefined
        ? undefined
        : {
            output: projector === 'base' ? 'image_embeds' : 'penultimate_hidden_states',
            width: encoderWidth,
            imageSize: isKolors ? 336 : 224,
          },
    face:
      faceWidth === undefined
        ? undefined
        : {
            width: faceWidth,
            isNormed: !isUnnorm,
            cropSize: isKolorsFace ? 336 : contextWidth === SDXL_WIDTH ? 256 : 224,
          },
    layers,
    hasLora,
    parameters: countParameters(all),
    projectionParameters: countParameters([...projection.values()]),
    dtypes: dtypesOf(all),
    files: [...new Set([path, ...all.flatMap(({ file }) => (file === undefined ? [] : join(folder, file)))])],
    stamp: stampKey(stamp),
  };
}

function variantOf(
  projector: Projector,
  { isUnnorm, isSecond, hasLora }: { isUnnorm: boolean; isSecond: boolean; hasLora: boolean },
): IPAdapterVariant {
  switch (projector) {
    case 'base':
      return 'base';
    case 'full':
      return 'full_face';
    case 'resampler':
      return isUnnorm ? 'faceid_portrait_unnorm' : 'plus';
    case 'faceid':
      return hasLora ? 'faceid' : 'faceid_portrait';
    case 'faceid-plus':
      return isSecond ? 'faceid_plus_v2' : 'faceid_plus';
  }
}

const VARIANT_LABELS: Readonly<Record<IPAdapterVariant, string>> = {
  base: 'IP-Adapter (also light)',
  plus: 'IP-Adapter plus (also plus-face, composition)',
  full_face: 'IP-Adapter full-face',
  faceid: 'IP-Adapter FaceID',
  faceid_plus: 'IP-Adapter FaceID-plus',
  faceid_plus_v2: 'IP-Adapter FaceID-plus v2',
  faceid_portrait: 'IP-Adapter FaceID portrait',
  faceid_portrait_unnorm: 'IP-Adapter FaceID portrait unnorm',
};

const BASE_LABELS = { sd15: 'SD1.5', sdxl: 'SDXL', kolors: 'Kolors' } as const;

function checkLayers(
  attention: ReadonlyMap<string, TensorInfo>,
  layers: readonly number[],
  { contextWidth, innerWidth }: ProjectionSizes,
): void {
  // Kolors FaceID's tokens go through a layer of the diffusion model first.
  const stored = attention.get(`${layers[0] ?? 1}.to_k_ip.weight`)?.shape[1] ?? 0;
  const context = innerWidth === KOLORS_FACEID_WIDTH ? stored : contextWidth;
  for (const layer of layers) {
    const keysName = `${layer}.to_k_ip.weight`;
    const width = attention.get(keysName)?.shape[0] ?? 0;
    for (const name of [keysName, `${layer}.to_v_ip.weight`]) checkTensor(attention.get(name), name, [width, context]);
  }
}

function checkTensor(info: TensorInfo | undefined, name: string, shape: Shape): void {
  if (info === undefined) {
    throw new ModelFormatError('TENSOR_MISSING', `it lacks ${name}. Is it a partial or converted file?`, {
      details: { tensor: name },
    });
  }
  if (info.shape.length !== shape.length || info.shape.some((side, i) => side !== shape[i])) {
    throw new ModelFormatError(
      'TENSOR_INVALID',
      `${name} has the shape [${info.shape.join(', ')}] in place of [${shape.join(', ')}].`,
      { details: { tensor: name, shape: info.shape, expected: shape } },
    );
  }
  if (!COMPUTED_DTYPES.includes(info.dtype)) {
    throw new ModelFormatError(
      'TENSOR_INVALID',
      `${name} is stored as ${info.dtype}; ${COMPUTED_DTYPES.join(', ')} are read.`,
      { details: { tensor: name, dtype: info.dtype } },
    );
  }
}

function unknownAdapter({ path, tensors }: ModelHeader, keys: AdapterKeys, hasLayers: boolean): ModelFormatError {
  const first = [...tensors.keys()].slice(0, 3).join(', ');
  const problem = hasLayers
    ? `its image_proj part has none of the known projections (${[...keys.projection.keys()].slice(0, 3).join(', ')}, …)`
    : tensors.size === 0
      ? 'it holds no tensors'
      : `it has no "ip_adapter.N.to_k_ip.weight" (its keys are ${first}, …)`;
  return new ModelFormatError(
    'ADAPTER_UNKNOWN',
    `${basename(path)} is no IP-Adapter: ${problem}. Known: ${Object.values(VARIANT_LABELS).join(', ')}.`,
    { details: { path } },
  );
}

function countParameters(tensors: readonly TensorInfo[]): number {
  return tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0);
}

function dtypesOf(tensors: readonly TensorInfo[]): string[] {
  const bytes = new Map<string, number>();
  for (const { dtype, sizeBytes } of tensors) bytes.set(dtype, (bytes.get(dtype) ?? 0) + sizeBytes);
  return [...bytes].sort((a, b) => b[1] - a[1]).map(([dtype]) => dtype);
}
