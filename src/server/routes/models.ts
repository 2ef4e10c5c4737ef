/** `/object_info`, `/models`, `/experiment/models`, `/view_metadata`, `/embeddings`: what there is. Always asked afresh. */
import { extname } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { BridgeError, InvalidRequestError } from '../../common/errors.js';
import { readSafetensorsMetadata } from '../../formats/index.js';
import { nodeInfo, type NodeTable } from '../../graph/index.js';
import { resolveInside } from '../../paths/index.js';
import type { Jsonable } from '../../protocol/json.js';
import type { ServerContext } from '../context.js';
import { listModelFacts, modelPicture, slashedName } from '../model-files.js';
import { pathText, queryText, sendEmpty, sendJson, sendServerError } from '../reply.js';

const MAX_SHOWN_HEADER_BYTES = 1024 * 1024; // ComfyUI's limit
/** Folder types without models. */
const NOT_MODELS = new Set(['configs', 'custom_nodes']);

type NodeEntry = NonNullable<ReturnType<NodeTable['get']>>;

export function registerModelRoutes(app: FastifyInstance, { bridge, dialect }: ServerContext, prefix: string): void {
  const { nodes, paths, logger } = bridge;

  const infoOf = async (node: NodeEntry): Promise<Readonly<Record<string, Jsonable>>> => {
    const info = await nodeInfo(node);
    if (!dialect.hasNewerNodeFields) return info;
    return {
      ...info,
      is_input_list: node.takesLists === true,
      has_intermediate_output: false,
      search_aliases: node.api === 'v1' ? [] : null,
    };
  };

  app.get(`${prefix}/object_info`, async (_request, reply) => {
    const entries = await Promise.all([...nodes].map(async ([name, node]) => [name, await infoOf(node)] as const));
    return sendJson(reply, new Map(entries));
  });

  app.get(`${prefix}/object_info/:name`, async (request, reply) => {
    const node = nodes.get(pathText(request, 'name'));
    return sendJson(reply, node === undefined ? {} : new Map([[node.classType, await infoOf(node)]]));
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

  app.get(`${prefix}/experiment/models`, (_request, reply) =>
    sendJson(
      reply,
      paths
        .names()
        .filter((name) => !NOT_MODELS.has(name))
        .map((name) => ({
          name,
          folders: paths.folders(name).map(({ path }) => path),
          ...(dialect.hasNewerNodeFields ? { extensions: [...paths.extensions(name)].sort() } : {}),
        })),
    ),
  );

  app.get(`${prefix}/experiment/models/:folder`, async (request, reply) => {
    const folder = pathText(request, 'folder');
    if (!paths.has(folder)) return sendEmpty(reply, 404);
    const facts: Jsonable[] = [];
    for (const [index, { path }] of paths.folders(folder).entries()) {
      for (const { name, pathIndex, sizeBytes, modifiedMs, createdMs } of await listModelFacts(path, index)) {
        facts.push({
          name: slashedName(name),
          pathIndex,
          modified: modifiedMs / 1000,
          created: createdMs / 1000,
          size: sizeBytes,
        });
      }
    }
    return sendJson(reply, facts);
  });

  app.get(`${prefix}/experiment/models/preview/:folder/:index/*`, async (request, reply) => {
    const folder = pathText(request, 'folder');
    if (!paths.has(folder)) return sendEmpty(reply, 404);
    const index = pathText(request, 'index');
    const name = pathText(request, '*');
    if (!/^\d+$/.test(index) || name === '')
      throw new InvalidRequestError('A preview is asked for as preview/{folder}/{number of the path}/{file}.');
    const root = paths.folders(folder)[Number(index)];
    if (root === undefined) return sendEmpty(reply, 404);
    const path = resolveInside(root.path, name);
    if (path === undefined) return sendEmpty(reply, 403);
    const picture = await modelPicture(path);
    return picture === undefined ? sendEmpty(reply, 404) : reply.header('content-type', 'image/webp').send(picture);
  });

  app.get(`${prefix}/view_metadata/:folder`, async (request, reply) => {
    const name = queryText(request, 'filename') ?? '';
    if (!name.endsWith('.safetensors')) return sendEmpty(reply, 404);
    const path = await paths.find(pathText(request, 'folder'), name);
    if (path === undefined) return sendEmpty(reply, 404);
    let metadata;
    try {
      metadata = await readSafetensorsMetadata(path, MAX_SHOWN_HEADER_BYTES);
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      logger.warn({ reason: error.message }, 'the metadata of a model could not be shown');
      return sendServerError(reply);
    }
    return metadata === undefined ? sendEmpty(reply, 404) : sendJson(reply, metadata);
  });
}
