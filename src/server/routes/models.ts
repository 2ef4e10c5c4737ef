/** `/object_info`, `/models`, `/embeddings`: what there is. Always asked afresh. */
import { extname } from 'node:path';
import type { FastifyInstance } from 'fastify';
import type { Bridge } from '../../bridge.js';
import { nodeInfo } from '../../graph/index.js';
import { pathText, sendEmpty, sendJson } from '../reply.js';

export function registerModelRoutes(app: FastifyInstance, { nodes, paths }: Bridge, prefix: string): void {
  app.get(`${prefix}/object_info`, async (_request, reply) => {
    const entries = await Promise.all([...nodes].map(async ([name, node]) => [name, await nodeInfo(node)] as const));
    return sendJson(reply, new Map(entries));
  });

  app.get(`${prefix}/object_info/:name`, async (request, reply) => {
    const node = nodes.get(pathText(request, 'name'));
    return sendJson(reply, node === undefined ? {} : new Map([[node.classType, await nodeInfo(node)]]));
  });

  app.get(`${prefix}/models`, (_request, reply) => sendJson(reply, paths.names()));

  app.get(`${prefix}/models/:folder`, async (request, reply) => {
    const folder = pathText(request, 'folder');
    return paths.has(folder) ? sendJson(reply, await paths.list(folder)) : sendEmpty(reply, 404);
  });

  app.get(`${prefix}/embeddings`, async (_request, reply) => {
    const names = await paths.list('embeddings');
    return sendJson(
      reply,
      names.map((name) => name.slice(0, name.length - extname(name).length)),
    );
  });
}
