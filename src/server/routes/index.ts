/** The table of route groups. ComfyUI's routes exist twice: at `/x` and at `/api/x`. */
import type { FastifyInstance } from 'fastify';
import type { Bridge } from '../../bridge.js';
import { registerBridgeRoutes } from './bridge.js';
import { registerEncodeRoute } from './encode.js';
import { registerFileRoutes } from './files.js';
import { registerModelRoutes } from './models.js';
import { registerPromptRoutes } from './prompt.js';
import { registerRegistryRoutes } from './registry.js';
import { registerSystemRoutes } from './system.js';

export function registerRoutes(app: FastifyInstance, bridge: Bridge): void {
  for (const prefix of ['', '/api']) {
    registerPromptRoutes(app, bridge, prefix);
    registerFileRoutes(app, bridge, prefix);
    registerModelRoutes(app, bridge, prefix);
    registerSystemRoutes(app, bridge, prefix);
  }
  registerBridgeRoutes(app, bridge);
  registerEncodeRoute(app, bridge);
  registerRegistryRoutes(app, bridge);
}
