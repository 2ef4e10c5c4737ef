/** `POST /bridge/v1/encode`: features of pictures. Tensors travel as safetensors, both ways. */
import { isAbsolute } from 'node:path';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import * as z from 'zod';
import type { Bridge } from '../../bridge.js';
import { BridgeError, InvalidRequestError } from '../../common/errors.js';
import { maxUploadBytes } from '../../config.js';
import { parseSafetensors, safetensorsParts } from '../../formats/index.js';
import { readImageInput, type ImageInput } from '../../image/index.js';
import type { Jsonable } from '../../protocol/json.js';
import type { Progress } from '../../runtime/index.js';
import type { F32Tensor, Shape } from '../../tensor/tensor.js';
import {
  featureTensors,
  joinEncoded,
  OUTPUT_FIELDS,
  type EncodedPictures,
  type OutputName,
  type VisionInput,
  type VisionOutput,
} from '../../vision/index.js';
import { readForm, type FormPart } from '../multipart.js';
import { parseQuery } from '../query.js';
import { abortWhenClosed, SAFETENSORS, sendJson, sendParts } from '../reply.js';
import { leaseTensorMemory } from '../tensor-body.js';

const outputNames = Object.keys(OUTPUT_FIELDS) as [OutputName, ...OutputName[]];

export const encodeQuerySchema = z.object({
  model: z.string().min(1, 'name a model of the clip_vision folder'),
  crop: z.enum(['center', 'none']).default('center'),
  precision: z.enum(['comfy', 'fp32', 'int8']).default('comfy'),
  outputs: z
    .string()
    .transform((text) => text.split(','))
    .pipe(z.array(z.enum(outputNames)).min(1))
    .optional(),
  tiles: z.coerce.number().int().min(1).max(16).optional(),
  tiles_ratio: z.coerce.number().min(0).max(1).optional(),
  intermediate_output: z.union([z.literal('all'), z.coerce.number().int()]).optional(),
  folder: z.enum(['clip_vision', 'checkpoints']).default('clip_vision'),
});

export function registerEncodeRoute(outer: FastifyInstance, bridge: Bridge): void {
  // In a scope of its own: what it receives is received in a way of its own.
  void outer.register((app, _options, done) => {
    registerEncode(app, bridge);
    done();
  });
}

function registerEncode(app: FastifyInstance, bridge: Bridge): void {
  const maxBytes = maxUploadBytes(bridge.config);
  const leaseOf = leaseTensorMemory(app, maxBytes);
  app.post('/bridge/v1/encode', async (request, reply) => {
    const query = parseQuery(encodeQuerySchema, request);
    const { model: name, folder, crop, precision, tiles, tiles_ratio: tilesRatio } = query;
    if (isAbsolute(name))
      throw new InvalidRequestError('A model is named relative to its folder, not by an absolute path.');
    const closed = abortWhenClosed(reply);
    let runMs = 0;
    const model = await bridge.vision.open(await bridge.paths.resolve(folder, name), { signal: closed });
    const { intermediate_output: intermediate, outputs = intermediate === 'all' ? model.outputs : undefined } = query;
    const options = {
      crop,
      precision,
      tiles,
      tilesRatio,
      ...(outputs === undefined ? {} : { outputs }),
      ...(typeof intermediate === 'number' ? { intermediateOutput: intermediate } : {}),
      maxPictures: MAX_PICTURES,
      isReadOnly: true,
      lease: leaseOf(request),
      onProgress: (progress: Progress) => {
        if (progress.stage === 'running') runMs += progress.runMs ?? 0;
      },
    };
    const encoder: Encoder = {
      file: (image, signal) => bridge.vision.encodeImage(model, image, { ...options, signal }),
      tensor: (input, signal) => bridge.vision.encode(model, input, { ...options, signal }),
    };
    const { output, indices, errors } = request.isMultipart()
      ? await encodeForm(request, maxBytes, tilesRatio, closed, encoder)
      : await encodeBody(request, closed, encoder);
    // What the model itself took: the rest is transfer and preparation.
    reply.header('server-timing', `run;dur=${runMs.toFixed(2)}`);
    const tensors = featureTensors(output);
    if (request.headers.accept?.includes('application/json') === true) {
      return sendJson(reply, {
        model: { name, family: model.family },
        features: Object.fromEntries(Object.entries(tensors).map(jsonTensor)),
        indices: [...indices],
        errors: errors.map((error) => ({ ...error })),
      });
    }
    const parts = safetensorsParts(tensors, {
      model: name,
      family: model.family,
      precision,
      crop,
      indices: JSON.stringify(indices),
      errors: JSON.stringify(errors),
    });
    return sendParts(reply.header('content-type', SAFETENSORS), parts);
  });
}

/** Pictures of one request, frames counted: their features are held until all are there. */
const MAX_PICTURES = 256;
/** Files of one request that are decoded and encoded at a time: the next is decoded while one is encoded. */
const FILES_AT_ONCE = 2;

interface PictureError {
  /** Place among the files of the form, from 0. */
  readonly index: number;
  readonly filename: string;
  readonly code: string;
  readonly message: string;
}

interface Encoded {
  readonly output: VisionOutput;
  /** For each row of the output: which file of the form it is of. */
  readonly indices: readonly number[];
  readonly errors: readonly PictureError[];
}

interface Encoder {
  file(image: ImageInput, signal: AbortSignal): Promise<EncodedPictures>;
  tensor(input: VisionInput, signal: AbortSignal): Promise<VisionOutput>;
}

/** Files of a form, in their order. One that is broken fails alone, unless none is left. */
async function encodeForm(
  request: FastifyRequest,
  maxBytes: number,
  ratio: number | undefined,
  signal: AbortSignal,
  encoder: Encoder,
): Promise<Encoded> {
  const files: Extract<FormPart, { type: 'file' }>[] = [];
  for await (const part of readForm(request, maxBytes)) {
    if (part.type === 'file') files.push(part);
    if (files.length > MAX_PICTURES) throw tooManyPictures();
  }
  if (files.length === 0) throw noImage();
  const encoded: (EncodedPictures | BridgeError)[] = [];
  const stop = new AbortController();
  const all = AbortSignal.any([signal, stop.signal]);
  let pictures = 0;
  let next = 0;
  const work = async (): Promise<void> => {
    for (let index = next++; index < files.length; index = next++) {
      const { bytes = new Uint8Array(), filename = '' } = files[index] ?? {};
      try {
        const result = await encoder.file({ kind: 'encoded', bytes, label: filename }, all);
        pictures += result.pictures;
        if (pictures > MAX_PICTURES) throw tooManyPictures();
        encoded[index] = result;
      } catch (error) {
        if (!(error instanceof BridgeError) || !isAboutPicture(error)) throw error;
        encoded[index] = error;
      }
    }
  };
  try {
    await Promise.all(Array.from({ length: FILES_AT_ONCE }, work));
  } finally {
    stop.abort();
  }
  return joinFiles(files, encoded, ratio);
}

/** Whether another picture of the same request may fare better. */
function isAboutPicture({ code }: BridgeError): boolean {
  return code === 'IMAGE_INVALID' || code === 'IMAGE_TOO_LARGE';
}

function joinFiles(
  files: readonly { readonly filename: string }[],
  encoded: readonly (EncodedPictures | BridgeError)[],
  ratio: number | undefined,
): Encoded {
  const parts: EncodedPictures[] = [];
  const indices: number[] = [];
  const errors: PictureError[] = [];
  let total = 0;
  for (const [index, result] of encoded.entries()) {
    total += result instanceof BridgeError ? 1 : result.pictures;
    if (result instanceof BridgeError) {
      const { code, message } = result;
      errors.push({ index, filename: files[index]?.filename ?? '', code, message });
    } else {
      parts.push(result);
      indices.push(...Array<number>(result.pictures).fill(index));
    }
  }
  const failure = encoded.find((result) => result instanceof BridgeError);
  if (parts.length === 0 && failure !== undefined) {
    const details = errors.length === 1 ? failure.details : { ...failure.details, errors };
    throw new BridgeError(failure.code, failure.message, { details, cause: failure });
  }
  // With a ratio, a single picture has two rows: its own and that of its pieces.
  const isPair = ratio !== undefined && total === 1;
  return { output: joinEncoded(parts, total, ratio), indices: isPair ? [0, 0] : indices, errors };
}

/** PNG, JPEG, GIF or WebP, by their first bytes. No header of safetensors is so long as these read as its length. */
function isPicture(bytes: Buffer): boolean {
  return /^(?:\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP)/s.test(bytes.toString('latin1', 0, 12));
}

/** The tensor of a safetensors body. */
async function encodeBody(request: FastifyRequest, signal: AbortSignal, encoder: Encoder): Promise<Encoded> {
  if (!(request.body instanceof Buffer) || request.body.length === 0) throw noImage();
  if (isPicture(request.body)) {
    throw new InvalidRequestError(
      'The body is a picture itself. Send it as a form, with the picture in the field "image": curl -F image=@picture.png …',
    );
  }
  const { tensors } = parseSafetensors(request.body, 'The request body');
  const pixelValues = tensors.get('pixel_values');
  const image = tensors.get('image');
  let input: VisionInput;
  let shape: Shape;
  if (pixelValues?.dtype === 'F32') {
    input = { pixelValues };
    shape = pixelValues.shape;
  } else if (image?.dtype === 'F32' || image?.dtype === 'U8') {
    const images = await readImageInput(
      image.dtype === 'F32'
        ? { kind: 'f32-bhwc', data: image.data, shape: sides(image.shape) }
        : { kind: 'u8-bhwc', data: image.data, shape: sides(image.shape) },
      { signal },
    );
    input = images;
    shape = images.shape;
  } else {
    throw new InvalidRequestError(
      'A safetensors body holds "image" (F32 or U8, [B, H, W, C]) or "pixel_values" (F32, [B, 3, S, S]).',
    );
  }
  if ((shape[0] ?? 0) > MAX_PICTURES) throw tooManyPictures();
  const output = await encoder.tensor(input, signal);
  const rows = Object.values(featureTensors(output))[0]?.shape[0] ?? 0;
  // With a ratio of tiles, a single picture has two rows.
  return { output, indices: Array.from({ length: rows }, (_none, row) => (shape[0] === 1 ? 0 : row)), errors: [] };
}

/** @throws {InvalidRequestError} for another rank */
function sides(shape: Shape): readonly [number, number, number, number] {
  const [batch = 0, height = 0, width = 0, channels = 0] = shape;
  if (shape.length === 4) return [batch, height, width, channels];
  throw new InvalidRequestError(`An image has the shape [B, H, W, C], got [${shape.join(', ')}].`);
}

function noImage(): InvalidRequestError {
  return new InvalidRequestError(
    'The request holds no image: send files as multipart/form-data, or a safetensors body.',
  );
}

function tooManyPictures(): InvalidRequestError {
  return new InvalidRequestError(
    `A request holds at most ${MAX_PICTURES} pictures, frames of animations counted: send them in several requests.`,
    { details: { maxPictures: MAX_PICTURES } },
  );
}

function jsonTensor([name, { shape, data }]: [string, F32Tensor]): [string, Jsonable] {
  return [name, { shape, data: Array.from(data) }];
}
