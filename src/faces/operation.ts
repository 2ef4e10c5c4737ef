/**
 * Finding faces, inside the inference process: detect, choose, align, recognise.
 *
 * Source: insightface, `FaceAnalysis`, and ComfyUI_IPAdapter_plus, which looks again at smaller sizes where none is found.
 */
import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { throwIfAborted } from '../common/abort.js';
import { BridgeError, ModelFormatError, messageOf } from '../common/errors.js';
import { nextMessages, Session, singleOperation, type Operation, type OperationCall } from '../runtime/index.js';
import { elementCount, f32Tensor, u8Tensor, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import { alignFace, resizeLinear } from './alignment.js';
import { decodeDetections, faceArea, type DetectedFace } from './detection.js';
import { networkStamp, readFaceNetwork, type FaceNetwork } from './network.js';

/** Name under which the parent calls it. */
export const FACES_OPERATION = 'faces.find';

/** `first` is the one with the best score, a number counts in the order of scores. */
export type FaceChoice = 'first' | 'largest' | 'all' | number;

export interface FacesRequest {
  readonly detector: string;
  readonly recogniser: string;
  /** `[B, H, W, C]`, RGB(A), u8 or f32 in 0..1. */
  readonly images: F32Tensor | U8Tensor;
  readonly choice: FaceChoice;
  /** Side of the aligned crop that is wanted beside the embedding, in pixels. */
  readonly cropSize?: number;
}

export interface FoundFace extends DetectedFace {
  /** As the recogniser gives it, not normed: f32 `[512]`. */
  readonly embedding: F32Tensor;
  /** u8 `[1, S, S, 3]` where a crop was asked for. */
  readonly crop?: U8Tensor;
}

/** Faces of every picture, best score first. */
export type FacesReply = readonly (readonly FoundFace[])[];

/** Sizes at which faces are looked for, until one is found. */
const DETECTION_SIZES = [640, 576, 512, 448, 384, 320];
const RECOGNISER_SIDE = 112;
const MEAN = 127.5;
const DETECTOR_SCALE = 128;
const RECOGNISER_SCALE = 127.5;
const MAX_FACES = 256;
const MAX_OPEN = 4;
const CHANNELS = 3;

interface OpenNetwork {
  readonly network: FaceNetwork;
  readonly session: Session;
}

export function createFacesOperation(): Operation {
  const open = new Map<string, OpenNetwork>();

  const acquire = async (path: string, kind: FaceNetwork['kind'], call: OperationCall): Promise<OpenNetwork> => {
    const key = `${await networkStamp(path)} ${path}`;
    const known = open.get(key);
    if (known !== undefined) return known;
    const network = await readFaceNetwork(path);
    if (network.kind !== kind) {
      throw new ModelFormatError('MODEL_FORMAT_UNSUPPORTED', `${path} is no face ${kind}.`, { details: { path } });
    }
    call.report({ stage: 'loading', model: path });
    for (const [oldest, { session }] of open) {
      if (open.size < MAX_OPEN) break;
      open.delete(oldest);
      await session[Symbol.asyncDispose]();
    }
    const session = await Session.create(await readFile(network.path), { weightsFolder: dirname(network.path) });
    const fresh = { network, session };
    open.set(key, fresh);
    return fresh;
  };

  return singleOperation(async (call) => {
    // Both sides of the channel are this program.
    const request = call.payload as FacesRequest;
    const detector = await acquire(request.detector, 'detector', call);
    const recogniser = await acquire(request.recogniser, 'recogniser', call);
    const [count = 0] = request.images.shape;
    const found: FoundFace[][] = [];
    for (let image = 0; image < count; image += 1) {
      await checkpoint(call);
      const picture = pictureOf(request.images, image);
      const faces = choose(await detect(detector, picture), request.choice);
      const recognised: FoundFace[] = [];
      for (const face of faces) {
        await checkpoint(call);
        recognised.push(await recognise(recogniser, picture, face, request.cropSize));
      }
      found.push(recognised);
      call.report({ stage: 'running', done: image + 1, total: count });
    }
    return found satisfies FacesReply;
  });
}

/** Lets messages in, and stops a call that was given up. */
async function checkpoint({ signal }: OperationCall): Promise<void> {
  await nextMessages();
  throwIfAborted(signal);
}

function choose(faces: readonly DetectedFace[], choice: FaceChoice): readonly DetectedFace[] {
  if (choice === 'all') return faces.slice(0, MAX_FACES);
  if (choice === 'largest') return faces.toSorted((a, b) => faceArea(b) - faceArea(a)).slice(0, 1);
  const index = choice === 'first' ? 0 : choice;
  return faces.slice(index, index + 1);
}

/** One picture as u8 RGB; parts of a level are cut off, as the reference cuts them. */
function pictureOf({ shape, data, dtype }: F32Tensor | U8Tensor, image: number): U8Tensor {
  const [, height = 0, width = 0, channels = 0] = shape;
  const out = new Uint8Array(height * width * CHANNELS);
  const begin = image * elementCount(shape.slice(1));
  for (let pixel = 0; pixel < height * width; pixel += 1) {
    for (let channel = 0; channel < CHANNELS; channel += 1) {
      const value = data[begin + pixel * channels + channel] ?? 0;
      out[pixel * CHANNELS + channel] =
        dtype === 'U8' ? value : Math.trunc(Math.min(255, Math.max(0, Math.fround(value * 255))));
    }
  }
  return u8Tensor([1, height, width, CHANNELS], out);
}

async function detect({ network, session }: OpenNetwork, picture: U8Tensor): Promise<DetectedFace[]> {
  const [, , fixedHeight = -1, fixedWidth = -1] = network.input.shape;
  const isFixed = fixedHeight > 0 && fixedWidth > 0;
  const sizes = isFixed ? [[fixedHeight, fixedWidth] as const] : DETECTION_SIZES.map((size) => [size, size] as const);
  for (const [height, width] of sizes) {
    const { input, scale } = letterbox(picture, height, width);
    const names = network.outputs.map(({ name }) => name);
    const results = await session.run({ [network.input.name]: input }, names);
    const outputs = names.flatMap((name) => results.get(name) ?? []);
    const faces = asModelProblem(network, () => decodeDetections({ outputs, height, width, scale }));
    if (faces.length > 0) return faces;
  }
  return [];
}

/** The picture in the top left corner of the network's input, as large as it fits; the rest is black. */
function letterbox(picture: U8Tensor, height: number, width: number): { input: F32Tensor; scale: number } {
  const [, fromHeight = 0, fromWidth = 0] = picture.shape;
  const isTall = fromHeight / fromWidth > height / width;
  const newHeight = isTall ? height : Math.max(1, Math.trunc(width * (fromHeight / fromWidth)));
  const newWidth = isTall ? Math.max(1, Math.trunc(height / (fromHeight / fromWidth))) : width;
  const resized = resizeLinear(picture, newHeight, newWidth);
  const data = new Float32Array(CHANNELS * height * width).fill(-MEAN / DETECTOR_SCALE);
  for (let channel = 0; channel < CHANNELS; channel += 1) {
    for (let y = 0; y < newHeight; y += 1) {
      for (let x = 0; x < newWidth; x += 1) {
        const level = resized.data[(y * newWidth + x) * CHANNELS + channel] ?? 0;
        data[(channel * height + y) * width + x] = (level - MEAN) / DETECTOR_SCALE;
      }
    }
  }
  return { input: f32Tensor([1, CHANNELS, height, width], data), scale: newHeight / fromHeight };
}

async function recognise(
  { network, session }: OpenNetwork,
  picture: U8Tensor,
  face: DetectedFace,
  cropSize: number | undefined,
): Promise<FoundFace> {
  const side = network.input.shape[2] ?? RECOGNISER_SIDE;
  const crop = requireCrop(alignFace(picture, face.landmarks, side));
  const area = side * side;
  const data = new Float32Array(CHANNELS * area);
  for (let i = 0; i < data.length; i += 1) {
    const level = crop.data[(i % area) * CHANNELS + Math.floor(i / area)] ?? 0;
    data[i] = network.isSelfNormalizing ? level : (level - MEAN) / RECOGNISER_SCALE;
  }
  const name = network.outputs[0]?.name ?? '';
  const input = f32Tensor([1, CHANNELS, side, side], data);
  const embedding = (await session.run({ [network.input.name]: input }, [name])).get(name);
  if (embedding === undefined) throw new BridgeError('INTERNAL', `${network.path} gave no ${name}`);
  const vector = f32Tensor([embedding.data.length], embedding.data);
  if (cropSize === undefined) return { ...face, embedding: vector };
  return { ...face, embedding: vector, crop: requireCrop(alignFace(picture, face.landmarks, cropSize)) };
}

function requireCrop(crop: U8Tensor | undefined): U8Tensor {
  if (crop !== undefined) return crop;
  throw new BridgeError(
    'FACE_NOT_FOUND',
    'A face was detected whose landmarks lie in one point; it cannot be aligned.',
  );
}

/** A network whose outputs are not what its file promised is the file's fault. */
function asModelProblem<T>({ path }: FaceNetwork, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new ModelFormatError('MODEL_FORMAT_UNSUPPORTED', `${path} is no SCRFD detector: ${messageOf(error)}.`, {
      cause: error,
      details: { path },
    });
  }
}
