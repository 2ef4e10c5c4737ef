/** `/prompt`, `/queue`, `/history`, `/interrupt`, `/free`: the prompt protocol. */
import type { FastifyInstance } from 'fastify';
import { InvalidRequestError } from '../../common/errors.js';
import { isJsonObject, type JsonObject, type JsonValue } from '../../protocol/json.js';
import { historyEntryJson, queueItemJson } from '../../protocol/prompt.js';
import type { ServerContext } from '../context.js';
import { pathText, queryText, readJsonBody, sendEmpty, sendJson, sendText } from '../reply.js';

export function registerPromptRoutes(app: FastifyInstance, { bridge }: ServerContext, prefix: string): void {
  const { queue } = bridge;
  // Upgrades never get here: the listener takes them first.
  app.get(`${prefix}/ws`, (request, reply) => {
    const asked = request.headers.upgrade ?? 'None';
    return sendText(
      reply,
      400,
      `No WebSocket UPGRADE hdr: ${asked}
 Can "Upgrade" only to "WebSocket".`,
    );
  });

  app.get(`${prefix}/prompt`, (_request, reply) =>
    sendJson(reply, { exec_info: { queue_remaining: queue.remaining } }),
  );

  app.post(`${prefix}/prompt`, async (request, reply) => {
    const body = readJsonBody(request);
    const source = request.headers['comfy-usage-source'];
    const isKept = bridge.config.dialect === 'latest' && typeof source === 'string';
    const result = await queue.submit(isKept ? withUsageSource(body, source) : body);
    if (result.accepted)
      return sendJson(reply, { prompt_id: result.promptId, number: result.number, node_errors: result.nodeErrors });
    return sendJson(reply.status(400), { error: result.error, node_errors: result.nodeErrors });
  });

  app.get(`${prefix}/queue`, (_request, reply) =>
    sendJson(reply, {
      queue_running: queue.running === undefined ? [] : [queueItemJson(queue.running)],
      queue_pending: queue.pending.map(queueItemJson),
    }),
  );

  app.post(`${prefix}/queue`, (request, reply) => {
    const { clear, ids } = readCommand(readJsonBody(request));
    if (clear) queue.clear();
    queue.delete(ids);
    return sendEmpty(reply);
  });

  app.get(`${prefix}/history`, (request, reply) => {
    const entries = queue.history({
      maxItems: wholeNumber(queryText(request, 'max_items')),
      offset: wholeNumber(queryText(request, 'offset')),
    });
    return sendJson(reply, new Map([...entries].map(([id, entry]) => [id, historyEntryJson(entry)])));
  });

  app.get(`${prefix}/history/:promptId`, (request, reply) => {
    const id = pathText(request, 'promptId');
    const entry = queue.historyEntry(id);
    return sendJson(reply, entry === undefined ? {} : new Map([[id, historyEntryJson(entry)]]));
  });

  app.post(`${prefix}/history`, (request, reply) => {
    const { clear, ids } = readCommand(readJsonBody(request));
    if (clear) queue.clearHistory();
    queue.deleteHistory(ids);
    return sendEmpty(reply);
  });

  app.post(`${prefix}/interrupt`, (request, reply) => {
    const promptId = readOptionalBody(request.body, () => readJsonBody(request)).get('prompt_id');
    queue.interrupt(typeof promptId === 'string' && promptId !== '' ? promptId : undefined);
    return sendEmpty(reply);
  });

  app.post(`${prefix}/free`, (request, reply) => {
    const body = readJsonBody(request);
    if (!isJsonObject(body)) throw new InvalidRequestError('The body of /free is a JSON object.');
    if (isTruthy(body.get('free_memory'))) queue.freeMemory();
    return sendEmpty(reply);
  });
}

/** `{"clear": bool, "delete": [id, …]}`; a list does nothing, and a text is taken for its characters, as in ComfyUI. */
function readCommand(body: JsonValue): { clear: boolean; ids: string[] } {
  if (Array.isArray(body)) return { clear: false, ids: [] };
  if (!isJsonObject(body)) throw new InvalidRequestError('The body is a JSON object with "clear" or "delete".');
  const given = body.get('delete');
  const ids = typeof given === 'string' ? Array.from(given) : given;
  if (ids !== undefined && !Array.isArray(ids)) throw new InvalidRequestError('"delete" is a list of prompt ids.');
  return { clear: isTruthy(body.get('clear')), ids: (ids ?? []).filter((id: JsonValue) => typeof id === 'string') };
}

/** A body that is missing, or no JSON, counts as `{}`: interrupting must always work. */
function readOptionalBody(raw: unknown, read: () => JsonValue): JsonObject {
  if (!(raw instanceof Buffer) || raw.length === 0) return new Map();
  let body: JsonValue;
  try {
    body = read();
  } catch {
    return new Map();
  }
  if (!isJsonObject(body)) throw new InvalidRequestError('The body of /interrupt is a JSON object.');
  return body;
}

/** Newer servers keep the header with the prompt. */
function withUsageSource(body: JsonValue, source: string): JsonValue {
  if (!isJsonObject(body)) return body;
  const given = body.get('extra_data') ?? undefined;
  if (given !== undefined && !isJsonObject(given)) return body; // refused further on
  const extraData = new Map(given).set('comfy_usage_source', source);
  return new Map(body).set('extra_data', extraData);
}

function isTruthy(value: JsonValue | undefined): boolean {
  if (Array.isArray(value)) return value.length > 0;
  return isJsonObject(value) ? value.size > 0 : Boolean(value);
}

function wholeNumber(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^[-+]?\d+$/.test(text.trim())) throw new InvalidRequestError(`"${text}" is no whole number.`);
  return Number(text);
}
