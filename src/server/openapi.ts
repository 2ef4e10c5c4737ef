/**
 * `/bridge/v1/openapi.json`: a description of our own routes. Parameters come from the schemas that the routes parse with;
 * a test compares the paths with those of the app.
 */
import * as z from 'zod';
import { ERROR_CODES } from '../common/errors.js';
import type { Jsonable } from '../protocol/json.js';
import { encodeQuerySchema } from './routes/encode.js';
import { IPADAPTER_QUERIES } from './routes/ipadapter.js';
import { nodeQuerySchema } from './routes/nodes.js';
import { REGISTRY_QUERIES } from './routes/registry.js';
import { SAFETENSORS } from './reply.js';

type Json = Record<string, Jsonable>;

interface Operation {
  readonly summary: string;
  readonly query?: z.ZodObject;
  /** Types of the body, with what it holds. */
  readonly body?: Readonly<Record<string, string>>;
  /** Types of the answer; default JSON. */
  readonly answers?: readonly string[];
}

const JSON_TYPE = 'application/json';
const FORM = 'multipart/form-data';
const PICTURES = { [FORM]: 'pictures, one file each', [SAFETENSORS]: 'a tensor `image` [B, H, W, C]' };
const { wait, stats, models, doctor } = REGISTRY_QUERIES;

/** By path and method. `{name}` takes the rest of the path, slashes included. */
const OPERATIONS: Readonly<Record<string, Readonly<Partial<Record<'get' | 'post', Operation>>>>> = {
  '/bridge/v1/openapi.json': { get: { summary: 'This description' } },
  '/bridge/v1/health': { get: { summary: 'What was found, what waits, the inference process' } },
  '/bridge/v1/paths': {
    get: { summary: 'Model folders in search order, with where each comes from, and problems of the configuration' },
  },
  '/bridge/v1/encode': {
    post: {
      summary: 'CLIP vision features of pictures',
      query: encodeQuerySchema,
      body: { ...PICTURES, [SAFETENSORS]: '`image` [B, H, W, C], or `pixel_values` F32 [B, 3, S, S]' },
      answers: [SAFETENSORS, JSON_TYPE],
    },
  },
  '/bridge/v1/nodes/{classType}': {
    post: {
      summary: 'Runs one node',
      query: nodeQuerySchema,
      body: { [SAFETENSORS]: '`inputs` as JSON in the metadata, tensors named `input.<input>.<field>`' },
      answers: [SAFETENSORS],
    },
  },
  '/bridge/v1/stats': { get: { summary: 'Files, bytes and parameters, grouped', query: stats } },
  '/bridge/v1/models': { get: { summary: 'Model files by what they are', query: models } },
  '/bridge/v1/models/{folder}/{name}': {
    get: { summary: 'Everything that is known of one model, without reading it', query: wait },
  },
  '/bridge/v1/preview/{folder}/{name}': {
    get: { summary: 'The picture beside a model, or the cover in its header', query: wait, answers: ['image/webp'] },
  },
  '/bridge/v1/hash/{folder}/{name}': {
    post: { summary: 'Reads a model whole: sha256, AutoV1, AutoV2, AutoV3, BLAKE3, CRC32; kept', query: wait },
  },
  '/bridge/v1/check-values/{folder}/{name}': {
    post: { summary: 'Reads a model whole: NaN and infinity per tensor; kept', query: wait },
  },
  '/bridge/v1/duplicates': {
    get: { summary: 'Files with the same content, by hashes that are known; reads nothing', query: wait },
    post: { summary: 'Files with the same content; hashes what may be', query: wait },
  },
  '/bridge/v1/doctor': {
    get: { summary: 'Which encoder each adapter needs, and what is broken or misplaced', query: doctor },
    post: {
      summary: 'The same, and the models of a workflow',
      query: wait,
      body: { [JSON_TYPE]: '`workflow` of either form, or an empty object' },
    },
  },
  '/bridge/v1/missing-models': {
    post: {
      summary: 'The models of a workflow, and the workflow with the names that fit here',
      query: wait,
      body: { [JSON_TYPE]: 'a workflow of either form' },
    },
  },
  '/bridge/v1/usage': {
    get: { summary: 'Which models were used, how often, when last, by what; and which were not', query: wait },
  },
  '/bridge/v1/ipadapter': { get: { summary: 'Adapters, what each wants, and which encoders fit' } },
  '/bridge/v1/ipadapter/inspect': { get: { summary: 'One adapter', query: IPADAPTER_QUERIES.inspect } },
  '/bridge/v1/ipadapter/weights': {
    get: { summary: 'What a weight type makes of a weight, per block', query: IPADAPTER_QUERIES.weights },
  },
  '/bridge/v1/ipadapter/layers': {
    get: {
      summary: "An adapter's key and value projections as they are stored",
      query: IPADAPTER_QUERIES.layers,
      answers: [SAFETENSORS],
    },
  },
  '/bridge/v1/ipadapter/embeds': {
    post: {
      summary: 'References to embeds',
      query: IPADAPTER_QUERIES.embeds,
      body: PICTURES,
      answers: [SAFETENSORS],
    },
  },
  '/bridge/v1/ipadapter/combine': {
    post: {
      summary: 'Several embeds to one',
      query: IPADAPTER_QUERIES.combine,
      body: { [FORM]: 'embeds, one safetensors file each' },
      answers: [SAFETENSORS],
    },
  },
  '/bridge/v1/ipadapter/project': {
    post: {
      summary: 'Pictures or embeds to image prompt tokens, keys and values',
      query: IPADAPTER_QUERIES.project,
      body: { ...PICTURES, [SAFETENSORS]: 'embeds, or a tensor `image` [B, H, W, C]' },
      answers: [SAFETENSORS],
    },
  },
  '/bridge/v1/faces/similarity': {
    post: { summary: 'Whether two pictures show one face', query: IPADAPTER_QUERIES.similarity, body: PICTURES },
  },
};

const ERROR = {
  type: 'object',
  required: ['error'],
  properties: {
    error: {
      type: 'object',
      required: ['code', 'message', 'details'],
      properties: {
        code: { type: 'string', enum: Object.keys(ERROR_CODES) },
        message: { type: 'string' },
        details: { type: 'object' },
      },
    },
  },
};

/** The document, in the form of OpenAPI 3.1. */
export function describeApi(version: string): Json {
  const paths = Object.entries(OPERATIONS).map(([path, methods]): [string, Jsonable] => [
    path,
    Object.fromEntries(Object.entries(methods).map(([method, operation]) => [method, describe(path, operation)])),
  ]);
  return {
    openapi: '3.1.0',
    info: {
      title: 'Vision Bridge',
      version,
      description: "Routes beside ComfyUI's own protocol. Tensors travel as safetensors. Errors have one form.",
    },
    paths: Object.fromEntries(paths),
    components: { schemas: { Error: ERROR } },
  };
}

function describe(path: string, { summary, query, body, answers = [JSON_TYPE] }: Operation): Json {
  const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name = '']): Jsonable => ({
    name,
    in: 'path',
    required: true,
    schema: { type: 'string' },
  }));
  return {
    summary,
    parameters: [...inPath, ...(query === undefined ? [] : describeQuery(query))],
    ...(body === undefined
      ? {}
      : {
          requestBody: {
            required: true,
            content: Object.fromEntries(
              Object.entries(body).map(([type, description]) => [type, { schema: { description } }]),
            ),
          },
        }),
    responses: {
      200: { description: 'Done', content: Object.fromEntries(answers.map((type) => [type, { schema: {} }])) },
      default: {
        description: 'Refused or failed',
        content: { [JSON_TYPE]: { schema: { $ref: '#/components/schemas/Error' } } },
      },
    },
  };
}

function describeQuery(query: z.ZodObject): Jsonable[] {
  const { properties = {}, required = [] } = z.toJSONSchema(query, { io: 'input' });
  return Object.entries(properties).map(([name, schema]): Jsonable => ({
    name,
    in: 'query',
    required: required.includes(name),
    schema: schema as Jsonable,
  }));
}
