/** `/bridge/v1/…`: our own routes about the server itself; encoding is encode.ts. */
import type { FastifyInstance } from 'fastify';
import type { Bridge } from '../../bridge.js';
import { readPackageVersion } from '../../common/package-version.js';
import { customaryFolders } from '../../library/index.js';
import { NODE_PROTOCOL } from '../../nodes/index.js';
import type { Jsonable } from '../../protocol/json.js';
import { describeApi } from '../openapi.js';
import { sendJson } from '../reply.js';

export function registerBridgeRoutes(app: FastifyInstance, bridge: Bridge): void {
  const version = readPackageVersion();
  app.get('/bridge/v1/openapi.json', (_request, reply) => sendJson(reply, describeApi(version)));

  app.get('/bridge/v1/health', (_request, reply) => {
    const { inference, queue, installation, paths } = bridge;
    const { pid, pendingCalls, crashes } = inference.state;
    return sendJson(reply, {
      status: 'ok',
      version,
      node_protocol: NODE_PROTOCOL,
      comfyui:
        installation === undefined
          ? null
          : { root: installation.root, found_by: installation.foundBy, version: installation.version ?? null },
      base_directory: paths.baseDirectory,
      queue_remaining: queue.remaining,
      inference: { pid: pid ?? null, pending: pendingCalls, crashes },
    });
  });

  app.get('/bridge/v1/paths', (_request, reply) => {
    const { paths } = bridge;
    const folders = paths.names().map((name): [string, Jsonable] => [
      name,
      {
        folders: paths.folders(name).map(({ path, origin }) => ({ path, origin: { ...origin } })),
        extensions: [...paths.extensions(name)].sort(),
      },
    ]);
    return sendJson(reply, {
      folders: new Map(folders),
      customary: Object.fromEntries(customaryFolders(paths).map(({ name, folders: list }) => [name, list])),
      problems: paths.problems.map((problem) => ({ ...problem })),
    });
  });
}
