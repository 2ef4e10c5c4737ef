/** `/internal/…`: what the front end asks for itself. Not under `/api`. */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { InvalidRequestError } from '../../common/errors.js';
import { isFileArea } from '../../paths/index.js';
import { isJsonObject } from '../../protocol/json.js';
import type { ServerContext } from '../context.js';
import { pathText, readJsonBody, sendEmpty, sendJson } from '../reply.js';

/** There is no terminal behind our log; ComfyUI's own fallback size. */
const TERMINAL = { cols: 80, rows: 24 };

export function registerInternalRoutes(app: FastifyInstance, { bridge, hub }: ServerContext): void {
  const { logs, paths, directories } = bridge;

  app.get('/internal/logs', (_request, reply) =>
    sendJson(reply, logs.entries.map(({ t, m }) => `${t} - ${m}`).join('')),
  );

  app.get('/internal/logs/raw', (_request, reply) =>
    sendJson(reply, { entries: logs.entries.map((entry) => ({ ...entry })), size: TERMINAL }),
  );

  app.patch('/internal/logs/subscribe', (request, reply) => {
    const body = readJsonBody(request);
    const clientId = isJsonObject(body) ? body.get('clientId') : undefined;
    const isEnabled = isJsonObject(body) ? body.get('enabled') : undefined;
    if (typeof clientId !== 'string' || isEnabled === undefined)
      throw new InvalidRequestError('The body is {"clientId": text, "enabled": boolean}.');
    hub.setLogSubscription(clientId, isEnabled === true);
    return sendEmpty(reply);
  });

  app.get('/internal/folder_paths', (_request, reply) =>
    sendJson(reply, new Map(paths.names().map((name) => [name, paths.folders(name).map(({ path }) => path)]))),
  );

  app.get('/internal/files/:area', async (request, reply) => {
    const area = pathText(request, 'area');
    if (!isFileArea(area)) return sendJson(reply.status(400), { error: 'Invalid directory type' });
    const names = await readdir(directories[area]).catch(() => []); // no folder yet: no files
    const files = await Promise.all(
      names.map(async (name) => ({ name, stats: await stat(join(directories[area], name)).catch(() => undefined) })),
    );
    const present = files.flatMap(({ name, stats }) => (stats?.isFile() === true ? [{ name, at: stats.mtimeMs }] : []));
    return sendJson(
      reply,
      present.sort((a, b) => b.at - a.at).map(({ name }) => name),
    );
  });
}
