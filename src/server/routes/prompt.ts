/** `/prompt`, `/queue`, `/history`, `/interrupt`, `/free`: the prompt protocol. */
import type { FastifyInstance } from 'fastify';
import type { Bridge } from '../../bridge.js';
import { InvalidRequestError } from '../../common/errors.js';
import { isJsonObject, type JsonObject, type JsonValue } from '../../protocol/json.js';
import { historyEntryJson, queueItemJson } from '../../protocol/prompt.js';
import { pathText, queryText, readJsonBody, sendEmpty, sendJson } from '../reply.js';

export function registerPromptRoutes(app: FastifyInstance, { queue }: Bridge, prefix: string): void {
  app.get(`${prefix}/prompt`, (_request, reply) =>
    sendJson(reply, { exec_info: { queue_remaining: queue.remaining } }),
  );

  app.post(`${prefix}/prompt`, async (request, reply) => {
    const result = await queue.submit(readJsonBody(request));
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
    if (body.get('free_memory') === true) queue.freeMemory();
    return sendEmpty(reply);
  });
}

/** `{"clear": bool, "delete": [id, …]}`; a list does nothing, as in ComfyUI. */
function readCommand(body: JsonValue): { clear: boolean; ids: string[] } {
  if (Array.isArray(body)) return { clear: false, ids: [] };
  if (!isJsonObject(body)) throw new InvalidRequestError('The body is a JSON object with "clear" or "delete".');
  const ids = body.get('delete');
  if (ids !== undefined && !Array.isArray(ids)) throw new InvalidRequestError('"delete" is a list of prompt ids.');
  return { clear: body.get('clear') === true, ids: (ids ?? []).filter((id: JsonValue) => typeof id === 'string') };
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

function wholeNumber(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^[-+]?\d+$/.test(text.trim())) throw new InvalidRequestError(`"${text}" is no whole number.`);
  return Number(text);
}
