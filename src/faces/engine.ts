/**
 * The face engine: finds networks in the user's folders, faces in pictures, and tells how alike two faces are.
 *
 * Nothing heavy happens here; detection and recognition run in the inference process.
 */
import { readdir, stat } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { BridgeError, InvalidRequestError, ModelFormatError, ModelNotFoundError } from '../common/errors.js';
import type { InferenceProcess } from '../runtime/index.js';
import type { F32Tensor, U8Tensor } from '../tensor/tensor.js';
import { readFaceNetwork, type FaceNetwork } from './network.js';
import { FACES_OPERATION, type FaceChoice, type FacesReply, type FacesRequest, type FoundFace } from './operation.js';

/** A detector and a recogniser that go together; plain data. */
export interface FaceModel {
  /** Name of the pack: `buffalo_l`. */
  readonly name: string;
  readonly detector: string;
  readonly recogniser: string;
}

export interface FindOptions {
  /** Default `first`: the face with the best score, as IPAdapter_plus takes it. */
  readonly choice?: FaceChoice;
  /** Side of the aligned crop that is wanted beside the embedding, in pixels. */
  readonly cropSize?: number;
  readonly signal?: AbortSignal | undefined;
}

/** Files of one pack that are looked at. */
const MAX_FILES = 200;
const MAX_CROP = 1024;

export class FaceEngine {
  readonly #inference: InferenceProcess;

  constructor(inference: InferenceProcess) {
    this.#inference = inference;
  }

  /**
   * Opens a pack, a folder of ONNX files: which of them detects and which recognises, their structure tells.
   *
   * @throws {ModelNotFoundError} saying what was looked for and where, and what each file is instead.
   */
  async open(folder: string): Promise<FaceModel> {
    const refusals: string[] = [];
    const networks: FaceNetwork[] = [];
    for (const file of await onnxFiles(folder)) {
      try {
        networks.push(await readFaceNetwork(join(folder, file)));
      } catch (error) {
        if (!(error instanceof ModelFormatError)) throw error;
        refusals.push(error.message);
      }
    }
    const detector = networks.find(({ kind }) => kind === 'detector');
    const recogniser = networks.find(({ kind }) => kind === 'recogniser');
    if (detector !== undefined && recogniser !== undefined) {
      const name = folder.split(/[\\/]/).at(-1) ?? folder;
      return { name, detector: detector.path, recogniser: recogniser.path };
    }
    const lacking =
      detector === undefined ? 'detector (nine or fifteen outputs)' : 'recogniser (112×112 in, a vector out)';
    throw new ModelNotFoundError(
      `There is no face ${lacking} in ${folder}. Put a pack such as buffalo_l or antelopev2 into models/insightface/models. ${refusals.join(' ')}`.trim(),
      { details: { folder, looked: networks.map(({ path, kind }) => ({ path, kind })), refusals } },
    );
  }

  /**
   * Finds one face in every picture.
   *
   * @param images `[B, H, W, C]`, RGB(A), u8 or f32 in 0..1.
   * @throws {BridgeError} `FACE_NOT_FOUND`, naming the picture; never a made-up face.
   */
  async find(model: FaceModel, images: F32Tensor | U8Tensor, options: FindOptions = {}): Promise<readonly FoundFace[]> {
    const choice = options.choice ?? 'first';
    if (choice === 'all') throw new InvalidRequestError('One face of each picture is found; ask for all with findAll.');
    const found = await this.#call(model, images, { ...options, choice });
    return found.map(([face], image) => {
      if (face !== undefined) return face;
      const which =
        typeof choice === 'number' && choice > 0 ? `no face number ${choice} (they count from 0)` : 'no face';
      throw new BridgeError(
        'FACE_NOT_FOUND',
        `There is ${which} in picture ${image + 1} of ${found.length}, looked for at 640 pixels and, in smaller steps, down to 320.`,
        { details: { image, choice } },
      );
    });
  }

  /** All faces of every picture, best score first; a picture without any has an empty list. */
  async findAll(
    model: FaceModel,
    images: F32Tensor | U8Tensor,
    options: Omit<FindOptions, 'choice'> = {},
  ): Promise<FacesReply> {
    return this.#call(model, images, { ...options, choice: 'all' });
  }

  async #call(
    model: FaceModel,
    images: F32Tensor | U8Tensor,
    { choice, cropSize, signal }: FindOptions & { choice: FaceChoice },
  ): Promise<FacesReply> {
    const [batch = 0, height = 0, width = 0, channels = 0] = images.shape;
    if (images.shape.length !== 4 || batch < 1 || height < 1 || width < 1 || channels < 3) {
      throw new InvalidRequestError(
        `Images have the shape [B, H, W, C] with three channels or more, got [${images.shape.join(', ')}].`,
      );
    }
    if (typeof choice === 'number' && !(Number.isSafeInteger(choice) && choice >= 0))
      throw new InvalidRequestError(`Faces are counted from 0; ${choice} is none.`);
    if (cropSize !== undefined && !(Number.isSafeInteger(cropSize) && cropSize >= 16 && cropSize <= MAX_CROP))
      throw new InvalidRequestError(`A crop has 16 to ${MAX_CROP} pixels a side, got ${cropSize}.`);
    const { detector, recogniser } = model;
    const request: FacesRequest = {
      detector,
      recogniser,
      images,
      choice,
      ...(cropSize === undefined ? {} : { cropSize }),
    };
    return (await this.#inference.call(FACES_OPERATION, request, { signal })) as FacesReply;
  }
}

/** A vector of length one. @throws {BridgeError} `FACE_NOT_FOUND` for a vector without direction */
export function normalizeEmbedding({ shape, data }: F32Tensor): F32Tensor {
  const norm = Math.sqrt(data.reduce((sum, value) => sum + value * value, 0));
  if (!(norm > 0)) throw new BridgeError('FACE_NOT_FOUND', 'The recogniser gave an embedding without a direction.');
  return { dtype: 'F32', shape, data: data.map((value) => value / norm) };
}

/** Cosine of two embeddings: about 1 for one person, about 0 for two. */
export function faceSimilarity(a: F32Tensor, b: F32Tensor): number {
  const one = normalizeEmbedding(a).data;
  const other = normalizeEmbedding(b).data;
  return one.reduce((sum, value, i) => sum + value * (other[i] ?? 0), 0);
}

async function onnxFiles(folder: string): Promise<string[]> {
  try {
    if (!(await stat(folder)).isDirectory()) throw new Error('it is a file');
    const names = (await readdir(folder)).filter((name) => extname(name).toLowerCase() === '.onnx');
    return names.sort().slice(0, MAX_FILES);
  } catch (error) {
    throw new ModelNotFoundError(
      `There is no folder ${folder}: face networks are looked for in models/insightface/models, in packs such as buffalo_l and antelopev2.`,
      { cause: error, details: { folder } },
    );
  }
}
