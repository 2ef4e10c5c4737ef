/**
 * `/api/assets` and `/api/tags` of the newer dialect: switched off, and told so as ComfyUI tells it.
 *
 * A client that reads the feature flag `assets` does not come here; one that does not read it learns here, with an
 * answer that it knows, to fall back on uploads and `/view`.
 *
 * Source: comfyui-protocol, "Assets".
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { ServerContext } from '../context.js';
import { sendJson } from '../reply.js';

const ROUTES: readonly (readonly [methods: readonly ('GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE')[], path: string])[] = [
  [['GET', 'POST'], '/assets'],
  [['GET', 'PUT', 'DELETE'], '/assets/:id'],
  [['GET'], '/assets/:id/content'],
  [['POST', 'DELETE'], '/assets/:id/tags'],
  [['POST'], '/assets/from-hash'],
  [['HEAD'], '/assets/hash/:hash'],
  [['GET'], '/tags'],
];

export function registerAssetRoutes(app: FastifyInstance, { dialect }: ServerContext, prefix: string): void {
  if (!dialect.hasAssetRoutes) return;
  const refuse = (_request: FastifyRequest, reply: FastifyReply): FastifyReply =>
    sendJson(reply.status(503), {
      error: {
        code: 'SERVICE_DISABLED',
        message: 'Vision Bridge keeps no assets. Upload with /upload/image, and fetch files with /view.',
        details: {},
      },
    });
  for (const [methods, path] of ROUTES) app.route({ method: [...methods], url: `${prefix}${path}`, handler: refuse });
}
