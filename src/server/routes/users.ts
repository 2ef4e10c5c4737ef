/** `/users` and `/settings`. */
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { InvalidRequestError, messageOf, systemCodeOf } from '../../common/errors.js';
import { isJsonObject, parseJson, writeAsciiJson, type JsonObject, type JsonValue } from '../../protocol/json.js';
import type { ServerContext } from '../context.js';
import { pathText, readJsonBody, sendEmpty, sendJson, sendText } from '../reply.js';
import { replaceFile } from '../user-folders.js';

/** One JSON file per user; nobody has so many settings. */
const MAX_SETTINGS_BYTES = 16 * 1024 * 1024;
const INDENT = '    ';

export function registerUserRoutes(app: FastifyInstance, { bridge, users }: ServerContext, prefix: string): void {
  app.get(`${prefix}/users`, (request, reply) =>
    sendJson(
      reply,
      users.isMultiUser
        ? { storage: 'server', users: users.users }
        : // The folder of the one user is made at the start.
          { storage: 'server', migrated: users.rootOf(request) !== undefined },
    ),
  );

  app.post(`${prefix}/users`, async (request, reply) => {
    const body = readJsonBody(request);
    const name = isJsonObject(body) ? body.get('username') : undefined;
    if (typeof name !== 'string') throw new InvalidRequestError('The body of /users is {"username": text}.');
    if (users.hasName(name)) return sendJson(reply.status(400), { error: 'Duplicate username.' });
    return sendJson(reply, await users.add(name));
  });

  const read = async (root: string): Promise<JsonObject> => {
    const file = settingsFile(root);
    try {
      const settings = parseJson(await readFile(file, 'utf8'), { keepsFloats: true });
      if (isJsonObject(settings)) return settings;
    } catch (error) {
      if (systemCodeOf(error) === 'ENOENT') return new Map();
      bridge.logger.error({ file, reason: messageOf(error) }, 'the user settings file is corrupted');
    }
    return new Map();
  };
  const withRoot = async (
    request: FastifyRequest,
    reply: FastifyReply,
    use: (root: string) => Promise<FastifyReply>,
  ): Promise<FastifyReply> => {
    const root = users.rootOf(request);
    return root === undefined ? sendText(reply, 401, '401: Unauthorized') : use(root);
  };
  const merge = async (root: string, changes: JsonObject): Promise<void> => {
    // One write at a time: a later one reads what the earlier one wrote.
    const turn = (writing.get(root) ?? Promise.resolve()).then(async () => {
      const text = indented(new Map([...(await read(root)), ...changes]), '');
      if (text.length > MAX_SETTINGS_BYTES)
        throw new InvalidRequestError(
          `Settings may take ${MAX_SETTINGS_BYTES} bytes; these would take ${text.length}.`,
        );
      await mkdir(root, { recursive: true });
      await replaceFile(settingsFile(root), text);
    });
    const settled = turn.catch(() => undefined);
    writing.set(root, settled);
    await turn;
    if (writing.get(root) === settled) writing.delete(root);
  };
  const writing = new Map<string, Promise<unknown>>();

  app.get(`${prefix}/settings`, (request, reply) =>
    withRoot(request, reply, async (root) => sendJson(reply, await read(root))),
  );

  app.get(`${prefix}/settings/:id`, (request, reply) =>
    withRoot(request, reply, async (root) => sendJson(reply, (await read(root)).get(pathText(request, 'id')) ?? null)),
  );

  app.post(`${prefix}/settings`, (request, reply) =>
    withRoot(request, reply, async (root) => {
      const changes = readJsonBody(request);
      if (!isJsonObject(changes)) throw new InvalidRequestError('The body of /settings is a JSON object.');
      await merge(root, changes);
      return sendEmpty(reply);
    }),
  );

  app.post(`${prefix}/settings/:id`, (request, reply) =>
    withRoot(request, reply, async (root) => {
      await merge(root, new Map([[pathText(request, 'id'), readJsonBody(request)]]));
      return sendEmpty(reply);
    }),
  );
}

function settingsFile(root: string): string {
  return join(root, 'comfy.settings.json');
}

/** JSON with four blanks per level, as ComfyUI writes the file: people edit it. */
function indented(value: JsonValue, margin: string): string {
  const inner = margin + INDENT;
  if (isJsonObject(value) && value.size > 0) {
    const entries = [...value].map(([key, entry]) => `${inner}${writeAsciiJson(key)}: ${indented(entry, inner)}`);
    return `{\n${entries.join(',\n')}\n${margin}}`;
  }
  if (Array.isArray(value) && value.length > 0) {
    const items = (value as readonly JsonValue[]).map((item) => inner + indented(item, inner));
    return `[\n${items.join(',\n')}\n${margin}]`;
  }
  return writeAsciiJson(value);
}
