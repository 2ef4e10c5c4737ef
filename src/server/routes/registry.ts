/** `/bridge/v1/stats`, `/models`, `/doctor` …: what the user's files are. Answers come from memory; `wait` waits for a scan. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { Bridge } from '../../bridge.js';
import { InvalidRequestError, ModelNotFoundError } from '../../common/errors.js';
import {
  countUsage,
  DEFAULT_FIELDS,
  duplicatesJson,
  findIssues,
  findPictureWorkflows,
  issueJson,
  missingJson,
  modelJson,
  pairingJson,
  pairModels,
  resolveWorkflow,
  statsJson,
  usageJson,
} from '../../library/index.js';
import type { Jsonable } from '../../protocol/json.js';
import { groupingSchema, modelQuerySchema } from '../../protocol/registry.js';
import { findDuplicates, MODEL_FIELDS, type ModelEntry, type ModelRegistry } from '../../registry/index.js';
import { pathText, queryText, readJsonBody, sendJson } from '../reply.js';

const DEFAULT_LIMIT = 1000;

export function registerRegistryRoutes(app: FastifyInstance, { registry, directories }: Bridge): void {
  const ready = async (request: FastifyRequest): Promise<void> => {
    if (queryText(request, 'wait') === 'true') await registry.scan();
    else registry.start();
  };

  app.get('/bridge/v1/stats', async (request, reply) => {
    await ready(request);
    const by = parse(groupingSchema, queryText(request, 'by') ?? 'folder', 'by');
    return sendJson(reply, { ...statsJson(registry.stats(by)), scan: { ...registry.progress } });
  });

  app.get('/bridge/v1/models', async (request, reply) => {
    await ready(request);
    // Parameters that are no filters are passed over.
    const query = parse(modelQuerySchema, request.query, 'query');
    const chosen = parseFields(queryText(request, 'fields'));
    const { total, models } = registry.query({ limit: DEFAULT_LIMIT, ...query });
    return sendJson(reply, {
      total,
      models: models.map((entry) => modelJson(entry, chosen)),
      scan: { ...registry.progress },
    });
  });

  app.get('/bridge/v1/models/:folder/*', async (request, reply) => {
    await ready(request);
    const entry = findEntry(registry, pathText(request, 'folder'), pathText(request, '*'));
    return sendJson(reply, await describe(registry, entry));
  });

  app.post('/bridge/v1/hash/:folder/*', async (request, reply) => {
    await ready(request);
    const entry = findEntry(registry, pathText(request, 'folder'), pathText(request, '*'));
    return sendJson(reply, { ...(await registry.hash(entry, { signal: abortWhenClosed(reply) })) });
  });

  app.post('/bridge/v1/duplicates', async (request, reply) => {
    await ready(request);
    return sendJson(
      reply,
      duplicatesJson(await findDuplicates(registry, registry.entries(), { signal: abortWhenClosed(reply) })),
    );
  });

  app.get('/bridge/v1/doctor', async (request, reply) => {
    await ready(request);
    return sendJson(reply, {
      pairs: pairModels(registry.entries()).map(pairingJson),
      issues: findIssues(registry).map(issueJson),
      scan: { ...registry.progress },
    });
  });

  app.post('/bridge/v1/missing-models', async (request, reply) => {
    await ready(request);
    return sendJson(reply, missingJson(resolveWorkflow(readJsonBody(request), registry.entries())));
  });

  app.get('/bridge/v1/usage', async (request, reply) => {
    await ready(request);
    const workflows = await findPictureWorkflows(directories.output, abortWhenClosed(reply));
    return sendJson(reply, usageJson(countUsage(workflows, registry.entries())));
  });
}

async function describe(registry: ModelRegistry, entry: ModelEntry): Promise<Record<string, Jsonable>> {
  const details = await registry.details(entry);
  const hashes = await registry.knownHashes(entry);
  return {
    ...modelJson(entry, Object.keys(MODEL_FIELDS)),
    details: (details ?? null) as Jsonable,
    hashes: hashes === undefined ? null : { ...hashes },
  };
}

/** @throws {ModelNotFoundError} */
function findEntry(registry: ModelRegistry, folder: string, name: string): ModelEntry {
  const plain = name.replaceAll('\\', '/');
  const found = registry
    .entries()
    .find((entry) => entry.folder === folder && entry.name === plain && entry.shadowedBy === undefined);
  if (found !== undefined) return found;
  throw new ModelNotFoundError(`No ${folder} model is called "${name}".`, { details: { folder, name } });
}

function parse<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path, message }) => `${[what, ...path].join('.')}: ${message}`);
  throw new InvalidRequestError(problems.join('; '));
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

/** Fires when the caller goes away before the answer is written. */
function abortWhenClosed(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  reply.raw.on('close', () => {
    if (!reply.raw.writableFinished) controller.abort();
  });
  return controller.signal;
}
