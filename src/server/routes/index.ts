/** The table of route groups. ComfyUI's routes exist twice: at `/x` and at `/api/x`. */
import type { FastifyInstance } from 'fastify';
import type { ServerContext } from '../context.js';
import { registerAssetRoutes } from './assets.js';
import { registerBridgeRoutes } from './bridge.js';
import { registerEncodeRoute } from './encode.js';
import { registerFrontEndRoutes, registerStartUpRoutes } from './front-end.js';
import { registerInternalRoutes } from './internal.js';
import { registerIPAdapterRoutes } from './ipadapter.js';
import { registerJobRoutes } from './jobs.js';
import { registerModelRoutes } from './models.js';
import { registerNodeRoutes } from './nodes.js';
import { registerPromptRoutes } from './prompt.js';
import { registerRegistryRoutes } from './registry.js';
import { registerSystemRoutes } from './system.js';
import { registerUploadRoutes } from './upload.js';
import { registerUserRoutes } from './users.js';
import { registerUserdataRoutes } from './userdata.js';
import { registerViewRoutes } from './view.js';

export function registerRoutes(app: FastifyInstance, context: ServerContext): void {
  for (const prefix of ['', '/api']) {
    registerPromptRoutes(app, context, prefix);
    registerUploadRoutes(app, context, prefix);
    registerViewRoutes(app, context, prefix);
    registerModelRoutes(app, context, prefix);
    registerSystemRoutes(app, context, prefix);
    registerUserRoutes(app, context, prefix);
    registerUserdataRoutes(app, context, prefix);
    registerStartUpRoutes(app, context, prefix);
    // ComfyUI registers these as /api/…, and so a second time below /api.
    registerJobRoutes(app, context, `${prefix}/api`);
    registerAssetRoutes(app, context, `${prefix}/api`);
  }
  registerInternalRoutes(app, context);
  registerFrontEndRoutes(app, context);
  registerBridgeRoutes(app, context.bridge);
  registerEncodeRoute(app, context.bridge);
  registerNodeRoutes(app, context.bridge);
  registerIPAdapterRoutes(app, context.bridge);
  registerRegistryRoutes(app, context.bridge);
}
