/** `/bridge/v1/stats`, `/models`, `/doctor` …: what the user's files are. Answers come from memory; `wait` waits for a scan. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import * as z from 'zod';
import type { Bridge } from '../../bridge.js';
import { BridgeError, InvalidRequestError, ModelNotFoundError } from '../../common/errors.js';
import {
  DEFAULT_FIELDS,
  duplicatesJson,
  findEncoderIssues,
  findIssues,
  findValueIssues,
  hashesJson,
  issueJson,
  missingJson,
  modelDetailsJson,
  modelJson,
  pairingJson,
  pairModels,
  resolveWorkflow,
  statsJson,
  usageJson,
  valuesJson,
  type HealthIssue,
} from '../../library/index.js';
import { isJsonObject, type Jsonable } from '../../protocol/json.js';
import { groupingSchema, modelQuerySchema } from '../../protocol/registry.js';
import { findDuplicates, MODEL_FIELDS, type ModelEntry, type ModelRegistry } from '../../registry/index.js';
import { modelPicture } from '../model-files.js';
import { parseQuery } from '../query.js';
import { abortWhenClosed, pathText, readJsonBody, sendJson } from '../reply.js';

const DEFAULT_LIMIT = 1000;

/** What the routes take in their query, beside what protocol/ has. */
const waitSchema = z.object({ wait: z.enum(['true', 'false']).optional() });
export const REGISTRY_QUERIES = {
  wait: waitSchema,
  stats: waitSchema.extend({ by: groupingSchema.optional() }),
  models: z.object({ ...modelQuerySchema.shape, fields: z.string().optional(), ...waitSchema.shape }),
  doctor: waitSchema.extend({ check_values: z.enum(['true', 'false']).optional() }),
};

export function registerRegistryRoutes(app: FastifyInstance, { registry, usage }: Bridge): void {
  /** The parameters of a request, checked before anything is waited for. */
  const ready = async <S extends z.ZodRawShape>(
    request: FastifyRequest,
    schema: z.ZodObject<S>,
  ): Promise<z.output<z.ZodObject<S>>> => {
    const query = parseQuery(schema, request);
    if ((query as { readonly wait?: string }).wait === 'true') await registry.refresh();
    else registry.start();
    return query;
  };
  const requested = async (request: FastifyRequest): Promise<ModelEntry> => {
    await ready(request, waitSchema);
    return findEntry(registry, pathText(request, 'folder'), pathText(request, '*'));
  };

  app.get('/bridge/v1/stats', async (request, reply) => {
    const { by = 'folder' } = await ready(request, REGISTRY_QUERIES.stats);
    return sendJson(reply, { ...statsJson(registry.stats(by)), scan: { ...registry.progress } });
  });

  app.get('/bridge/v1/models', async (request, reply) => {
    const { fields, ...query } = await ready(request, REGISTRY_QUERIES.models);
    const chosen = parseFields(fields);
    const { total, models } = registry.query({ limit: DEFAULT_LIMIT, ...query });
    return sendJson(reply, {
      total,
      models: models.map((entry) => modelJson(entry, chosen)),
      scan: { ...registry.progress },
    });
  });

  app.get('/bridge/v1/models/:folder/*', async (request, reply) =>
    sendJson(reply, await modelDetailsJson(registry, await requested(request))),
  );

  app.get('/bridge/v1/preview/:folder/*', async (request, reply) => {
    const { path } = await requested(request);
    const picture = await modelPicture(path);
    if (picture === undefined) throw new BridgeError('NOT_FOUND', `There is no picture of ${path}, nor in its header.`);
    return reply.header('content-type', 'image/webp').send(picture);
  });

  app.post('/bridge/v1/hash/:folder/*', async (request, reply) => {
    const entry = await requested(request);
    const signal = abortWhenClosed(reply);
    const hash = async (file: ModelEntry): Promise<Record<string, Jsonable>> =>
      hashesJson(await registry.hash(file, { signal }), file, await registry.details(file));
    if (entry.shards === undefined) return sendJson(reply, await hash(entry));
    const parts: Jsonable[] = [];
    for (const part of entry.shards.parts) parts.push({ path: part.path, ...(await hash(part)) });
    return sendJson(reply, { parts });
  });

  app.post('/bridge/v1/check-values/:folder/*', async (request, reply) => {
    const entry = await requested(request);
    const check = await registry.contents.checkValues(entry, { signal: abortWhenClosed(reply) });
    return sendJson(reply, valuesJson(check));
  });

  // Only the one that is told to reads files.
  for (const [method, mayRead] of [
    ['GET', false],
    ['POST', true],
  ] as const) {
    app.route({
      method,
      url: '/bridge/v1/duplicates',
      handler: async (request, reply) => {
        await ready(request, waitSchema);
        const options = { mayRead, signal: abortWhenClosed(reply) };
        return sendJson(reply, duplicatesJson(await findDuplicates(registry, registry.entries(), options)));
      },
    });
  }

  const examine = async (
    signal: AbortSignal,
    extra: readonly HealthIssue[] = [],
  ): Promise<Record<string, Jsonable>> => ({
    pairs: pairModels(registry.entries()).map(pairingJson),
    issues: [...findIssues(registry), ...(await findEncoderIssues(registry.entries(), signal)), ...extra].map(
      issueJson,
    ),
    scan: { ...registry.progress },
  });

  app.get('/bridge/v1/doctor', async (request, reply) => {
    const query = await ready(request, REGISTRY_QUERIES.doctor);
    const signal = abortWhenClosed(reply);
    const values =
      query.check_values === 'true' ? await findValueIssues(registry, registry.entries(), { signal }) : undefined;
    return sendJson(reply, await examine(signal, values));
  });

  app.post('/bridge/v1/doctor', async (request, reply) => {
    await ready(request, waitSchema);
    const body = readJsonBody(request);
    const workflow = isJsonObject(body) ? body.get('workflow') : undefined;
    const models = workflow === undefined ? {} : missingJson(resolveWorkflow(workflow, registry.entries()));
    return sendJson(reply, { ...(await examine(abortWhenClosed(reply))), ...models });
  });

  app.post('/bridge/v1/missing-models', async (request, reply) => {
    await ready(request, waitSchema);
    return sendJson(reply, missingJson(resolveWorkflow(readJsonBody(request), registry.entries())));
  });

  app.get('/bridge/v1/usage', async (request, reply) => {
    await ready(request, waitSchema);
    return sendJson(reply, usageJson(await usage.usage(registry.entries(), { signal: abortWhenClosed(reply) })));
  });
}

/** @throws {ModelNotFoundError} */
function findEntry(registry: ModelRegistry, folder: string, name: string): ModelEntry {
  const plain = name.replaceAll('\\', '/');
  const found = registry
    .entries()
    .find(
      (entry) =>
        entry.folder === folder &&
        entry.shadowedBy === undefined &&
        (entry.name === plain || entry.shards?.parts.some((part) => part.name === plain) === true),
    );
  if (found !== undefined) return found;
  throw new ModelNotFoundError(`No ${folder} model is called "${name}".`, { details: { folder, name } });
}

function parseFields(fields: unknown): readonly string[] {
  if (typeof fields !== 'string' || fields === '') return DEFAULT_FIELDS;
  const chosen = fields.split(',');
  const unknown = chosen.filter((field) => !Object.hasOwn(MODEL_FIELDS, field));
  if (unknown.length === 0) return chosen;
  throw new InvalidRequestError(
    `fields: ${unknown.join(', ')} ${unknown.length === 1 ? 'is' : 'are'} not known. Known: ${Object.keys(MODEL_FIELDS).join(', ')}.`,
  );
}
