/** `/bridge/v1/ipadapter/…` and `/bridge/v1/faces/…`: references in, embeds and tokens out. */
import { Readable } from 'node:stream';
import { isAbsolute } from 'node:path';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import * as z from 'zod';
import {
  adapterSummary,
  combineEmbeds,
  COMBINE_MODES,
  encoderProblem,
  findEncoder,
  openFacePack,
  parseEmbeds,
  pixelsOf,
  readLayerWeights,
  serializeEmbeds,
  tokenTensors,
  transformerWeights,
  WEIGHT_TYPES,
  type AdapterPair,
  type IPAdapterEmbeds,
  type IPAdapterModel,
  type ModelCandidate,
  type Reference,
  type ReferenceOptions,
} from '../../adapter/index.js';
import type { Bridge } from '../../bridge.js';
import { BridgeError, InvalidRequestError } from '../../common/errors.js';
import { nearNames } from '../../common/problems.js';
import { maxUploadBytes } from '../../config.js';
import { faceSimilarity } from '../../faces/index.js';
import { isSafetensors, parseSafetensors, serializeSafetensors } from '../../formats/index.js';
import { requireFinite } from '../../image/index.js';
import type { Jsonable } from '../../protocol/json.js';
import type { F32Tensor, Tensor, U8Tensor } from '../../tensor/tensor.js';
import type { VisionModel } from '../../vision/index.js';
import { readForm } from '../multipart.js';
import { parseQuery } from '../query.js';
import { abortWhenClosed, SAFETENSORS, sendJson } from '../reply.js';

const MAX_LAYERS_TEXT = 8000;
const MAX_WEIGHTS = 256;
const MAX_EMBEDS = 64;
/** Name of the part that stands against the others. */
const NEGATIVE = 'negative';
/** Pictures of one request: all are held as pixels until they are encoded. */
const MAX_PICTURES = 64;

const name = z
  .string()
  .min(1)
  .max(4096)
  .refine((text) => !isAbsolute(text), 'is relative to its folder, never an absolute path');
const numbers = z
  .string()
  .transform((text) => text.split(',').map((entry) => (entry.trim() === '' ? NaN : Number(entry))))
  .refine((list) => list.every(Number.isFinite), 'numbers such as 1,0.5 are wanted')
  .refine((list) => list.length <= MAX_WEIGHTS, `at most ${MAX_WEIGHTS} are taken`);
const layerList = z
  .string()
  .max(MAX_LAYERS_TEXT)
  .refine(
    (text) => text === 'all' || /^\d{1,6}(,\d{1,6})*$/.test(text),
    'layer numbers such as 1,3, or all, are wanted',
  )
  .transform((text): number[] | 'all' => (text === 'all' ? 'all' : text.split(',').map(Number)));
const faceChoice = z.union([z.enum(['first', 'largest']), z.coerce.number().int().min(0).max(1000)], {
  error: 'first, largest, or the number of a face is wanted',
});

const adapterQuery = z.object({ adapter: name });
const pairQuery = adapterQuery.extend({ clip_vision: name.optional(), face_pack: name.optional() });
const encodeQuery = pairQuery.extend({
  precision: z.enum(['comfy', 'fp32', 'int8']).default('comfy'),
  combine: z.enum(COMBINE_MODES).default('concat'),
  weights: numbers.optional(),
  tiles: z.coerce.number().int().min(1).max(16).default(1),
  tiles_ratio: z.coerce.number().min(0).max(1).default(1),
  face: faceChoice.default('first'),
});
const projectQuery = encodeQuery.extend({
  layers: layerList.optional(),
  faceid_v2_scale: z.coerce.number().min(-10).max(10).default(1),
});
const layersQuery = adapterQuery.extend({ layers: layerList.default('all') });
const combineQuery = z.object({ method: z.enum(COMBINE_MODES).default('concat'), weights: numbers.optional() });
const weightsQuery = z.object({
  model: z.enum(['sd15', 'sdxl']),
  type: z.enum(WEIGHT_TYPES).default('linear'),
  weight: z.coerce.number().default(1),
  composition_weight: z.coerce.number().optional(),
  style_boost: z.coerce.number().optional(),
  composition_boost: z.coerce.number().optional(),
  layer_weights: z.string().max(4096).optional(),
});
const similarityQuery = z.object({
  face_pack: name.optional(),
  face: faceChoice.default('largest'),
});

/** By route, for the description of the API. */
export const IPADAPTER_QUERIES = {
  inspect: adapterQuery,
  weights: weightsQuery,
  layers: layersQuery,
  embeds: encodeQuery,
  combine: combineQuery,
  project: projectQuery,
  similarity: similarityQuery,
};

export function registerIPAdapterRoutes(app: FastifyInstance, bridge: Bridge): void {
  const maxBytes = maxUploadBytes(bridge.config);
  const { adapters, references, faces, folders } = bridge.ipadapter;

  app.get('/bridge/v1/ipadapter', async (_request, reply) => {
    const encoders = await openEncoders(bridge);
    const list: Jsonable[] = [];
    for (const candidate of await folders.adapters.list()) list.push(await describe(bridge, candidate, encoders));
    return sendJson(reply, { folders: folders.adapters.places(), adapters: list });
  });

  app.get('/bridge/v1/ipadapter/inspect', async (request, reply) => {
    const { adapter } = parseQuery(adapterQuery, request);
    const path = await folders.adapters.resolve(adapter);
    const model = await adapters.open(path);
    const encoders = await openEncoders(bridge);
    return sendJson(reply, { name: adapter, path, ...adapterSummary(model), encoders: matches(model, encoders) });
  });

  app.get('/bridge/v1/ipadapter/weights', (request, reply) => {
    const query = parseQuery(weightsQuery, request);
    const list = transformerWeights({
      model: query.model,
      type: query.type,
      weight: query.weight,
      compositionWeight: query.composition_weight,
      styleBoost: query.style_boost,
      compositionBoost: query.composition_boost,
      layerWeights: query.layer_weights,
    });
    return sendJson(reply, {
      transformers: list.map(({ weight, isTurned }) => ({ weight: weight ?? null, turned: isTurned })),
    });
  });

  app.get('/bridge/v1/ipadapter/layers', async (request, reply) => {
    const { adapter, layers } = parseQuery(layersQuery, request);
    const { sizeBytes, chunks } = await readLayerWeights(await folders.adapters.resolve(adapter), layers);
    return reply.header('content-type', SAFETENSORS).header('content-length', sizeBytes).send(Readable.from(chunks));
  });

  app.post('/bridge/v1/ipadapter/embeds', async (request, reply) => {
    const query = parseQuery(encodeQuery, request);
    const signal = abortWhenClosed(reply);
    const pair = await openPair(bridge, query, signal);
    const body = await readBody(request, maxBytes);
    if (body.kind === 'embeds') throw new InvalidRequestError('The body holds embeds already; send pictures.');
    const options = { ...optionsOf(query, signal), ...againstOf(body) };
    return sendEmbeds(reply, await references.encode(pair, referencesOf(body), options));
  });

  app.post('/bridge/v1/ipadapter/combine', async (request, reply) => {
    const { method, weights } = parseQuery(combineQuery, request);
    if (!request.isMultipart())
      throw new InvalidRequestError(
        'Embeds are combined from files of multipart/form-data, each a safetensors document.',
      );
    const list: IPAdapterEmbeds[] = [];
    for await (const part of readForm(request, maxBytes)) {
      if (part.type !== 'file') continue;
      if (list.length >= MAX_EMBEDS)
        throw new InvalidRequestError(`At most ${MAX_EMBEDS} embeds are combined at once.`);
      list.push(parseEmbeds(part.bytes, part.filename));
    }
    return sendEmbeds(reply, combineEmbeds(list, method, weights));
  });

  app.post('/bridge/v1/ipadapter/project', async (request, reply) => {
    const query = parseQuery(projectQuery, request);
    const signal = abortWhenClosed(reply);
    const pair = await openPair(bridge, query, signal);
    const body = await readBody(request, maxBytes);
    const options = optionsOf(query, signal);
    const settings = {
      layers: query.layers ?? [],
      faceIdV2Scale: query.faceid_v2_scale,
      precision: query.precision,
      signal,
    };
    const projected =
      body.kind === 'embeds'
        ? await references.project(pair, body.embeds, settings)
        : await references.projectReferences(pair, referencesOf(body), { ...options, ...againstOf(body), ...settings });
    const { variant, label } = pair.adapter;
    const bytes = serializeSafetensors(tokenTensors(projected), { adapter: query.adapter, variant, label });
    return reply.header('content-type', SAFETENSORS).send(Buffer.from(bytes.buffer));
  });

  app.post('/bridge/v1/faces/similarity', async (request, reply) => {
    const { face_pack: pack, face: choice } = parseQuery(similarityQuery, request);
    const signal = abortWhenClosed(reply);
    const body = await readBody(request, maxBytes);
    const pictures = body.kind === 'pictures' ? body.pictures : [];
    if (pictures.length !== 2)
      throw new InvalidRequestError(`Two pictures are compared, got ${pictures.length}: send two files.`);
    const model = await openFacePack(faces, folders.facePacks, pack);
    const found = [];
    for (const picture of pictures)
      found.push((await faces.find(model, await pixelsOf(picture, signal), { choice, signal }))[0]);
    const [a, b] = found;
    // `find` gives a face or throws.
    if (a === undefined || b === undefined) throw new BridgeError('FACE_NOT_FOUND', 'A picture has no face.');
    return sendJson(reply, {
      similarity: faceSimilarity(a.embedding, b.embedding),
      faces: [a, b].map(({ box, score, landmarks }) => ({ box, score, landmarks })),
      pack: model.name,
    });
  });
}

interface OpenEncoder {
  readonly name: string;
  readonly model: VisionModel;
}

/** All files of the clip_vision folders that are encoders. */
async function openEncoders({ vision, ipadapter }: Bridge): Promise<OpenEncoder[]> {
  const found: OpenEncoder[] = [];
  for (const { name: encoder, path } of await ipadapter.folders.encoders.list()) {
    try {
      found.push({ name: encoder, model: await vision.open(path) });
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error; // a file that is no encoder fits nothing
    }
  }
  return found;
}

async function describe(
  { ipadapter }: Bridge,
  { name: adapter, path }: ModelCandidate,
  encoders: readonly OpenEncoder[],
): Promise<Jsonable> {
  try {
    const model = await ipadapter.adapters.open(path);
    return { name: adapter, ...adapterSummary(model), encoders: matches(model, encoders) };
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    return { name: adapter, problem: { code: error.code, message: error.message } };
  }
}

function matches(model: IPAdapterModel, encoders: readonly OpenEncoder[]): readonly string[] {
  if (model.encoder === undefined) return [];
  return encoders
    .filter((encoder) => encoderProblem(model, encoder.model) === undefined)
    .map((encoder) => encoder.name);
}

/** An adapter with the encoder and the face networks that were named, or that fit. */
async function openPair(
  { vision, ipadapter }: Bridge,
  query: z.output<typeof pairQuery>,
  signal: AbortSignal,
): Promise<AdapterPair> {
  const { adapters, faces, folders } = ipadapter;
  const adapter = await adapters.open(await folders.adapters.resolve(query.adapter), { signal });
  const encoder =
    adapter.encoder === undefined
      ? undefined
      : query.clip_vision === undefined
        ? (await findEncoder(adapter, folders.encoders, vision, signal)).model
        : await vision.open(await folders.encoders.resolve(query.clip_vision), { signal });
  const pack = adapter.face === undefined ? undefined : await openFacePack(faces, folders.facePacks, query.face_pack);
  return { adapter, encoder, faces: pack };
}

function optionsOf(query: z.output<typeof encodeQuery>, signal: AbortSignal): ReferenceOptions {
  const { precision, combine, weights, tiles, tiles_ratio: ratio, face } = query;
  return { precision, combine, weights, tiles, ratio, face, signal };
}

interface Pictures {
  readonly kind: 'pictures';
  /** Files as they came: those that were projected before need not be decoded. */
  readonly pictures: readonly Reference['images'][];
  readonly mask?: F32Tensor | undefined;
  readonly negative?: Reference['images'] | undefined;
}

type Body = { readonly kind: 'embeds'; readonly embeds: IPAdapterEmbeds } | Pictures;

/** Pictures as files (a part named `negative` stands against them), or a safetensors document of pictures or of embeds. */
async function readBody(request: FastifyRequest, maxBytes: number): Promise<Body> {
  if (request.isMultipart()) {
    const pictures: Reference['images'][] = [];
    let negative: Reference['images'] | undefined;
    for await (const part of readForm(request, maxBytes)) {
      if (part.type !== 'file') continue;
      if (pictures.length >= MAX_PICTURES)
        throw new InvalidRequestError(`A request holds at most ${MAX_PICTURES} pictures.`);
      const image = { kind: 'encoded', bytes: part.bytes, label: part.filename } as const;
      const [meant] = part.field === NEGATIVE ? [] : nearNames(part.field, [NEGATIVE]);
      if (meant !== undefined)
        throw new InvalidRequestError(
          `A part is named "${part.field}"; did you mean ${meant}? References have any other name.`,
        );
      if (isSafetensors(part.bytes)) {
        throw new InvalidRequestError(
          `${part.filename} is a safetensors document, no picture. Embeds are sent as the body itself, with content-type ${SAFETENSORS}.`,
        );
      }
      if (part.field === NEGATIVE) negative = image;
      else pictures.push(image);
    }
    return { kind: 'pictures', pictures, negative };
  }
  if (!(request.body instanceof Buffer) || request.body.length === 0)
    throw new InvalidRequestError('Send pictures as multipart/form-data, or a safetensors body.');
  const { tensors } = parseSafetensors(request.body, 'The request body');
  if (tensors.has('cond.image') || tensors.has('cond.face'))
    return { kind: 'embeds', embeds: parseEmbeds(request.body, 'The request body') };
  for (const [name, tensor] of tensors)
    if (tensor.dtype === 'F32') requireFinite(tensor.data, tensor.shape, `The tensor ${name}`);
  const image = pictureOf(tensors.get('image'));
  const mask = tensors.get('mask');
  if (image === undefined || (mask !== undefined && mask.dtype !== 'F32')) {
    throw new InvalidRequestError(
      'A safetensors body holds "image" (F32 or U8, [B, H, W, C]), and "mask" (F32, [M, H, W]) and "negative" if wanted; or embeds.',
    );
  }
  return { kind: 'pictures', pictures: [image], mask, negative: pictureOf(tensors.get('negative')) };
}

function pictureOf(tensor: Tensor | undefined): F32Tensor | U8Tensor | undefined {
  return tensor?.dtype === 'F32' || tensor?.dtype === 'U8' ? tensor : undefined;
}

function referencesOf({ pictures, mask }: Pictures): Reference[] {
  return pictures.map((images) => ({ images, mask }));
}

function againstOf({ negative }: Pictures): Pick<ReferenceOptions, 'negative'> {
  return negative === undefined ? {} : { negative: { kind: 'images', images: negative } };
}

function sendEmbeds(reply: FastifyReply, embeds: IPAdapterEmbeds): FastifyReply {
  return reply.header('content-type', SAFETENSORS).send(Buffer.from(serializeEmbeds(embeds).buffer));
}
