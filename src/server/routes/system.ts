/** `/system_stats` and `/features`: what clients ask first. */
import { freemem, totalmem } from 'node:os';
import type { FastifyInstance } from 'fastify';
import type { Bridge } from '../../bridge.js';
import type { Jsonable } from '../../protocol/json.js';
import { sendJson } from '../reply.js';

/** The version whose protocol we speak; many clients read it as a health check. */
const ANNOUNCED_VERSION = '0.3.64';

/** What the websocket handshake and `/features` tell. */
export function serverFeatures({ config }: Bridge): Jsonable {
  return { supports_preview_metadata: true, max_upload_size: config.maxUploadSize * 1024 * 1024 };
}

export function registerSystemRoutes(app: FastifyInstance, bridge: Bridge, prefix: string): void {
  app.get(`${prefix}/features`, (_request, reply) => sendJson(reply, serverFeatures(bridge)));

  app.get(`${prefix}/system_stats`, (_request, reply) => {
    const ram = { total: totalmem(), free: freemem() };
    return sendJson(reply, {
      system: {
        os: process.platform === 'win32' ? 'nt' : 'posix',
        ram_total: ram.total,
        ram_free: ram.free,
        comfyui_version: ANNOUNCED_VERSION,
        required_frontend_version: null,
        installed_templates_version: null,
        required_templates_version: null,
        python_version: '',
        pytorch_version: '',
        embedded_python: false,
        argv: ['vision-bridge'],
      },
      // The engine runs on the CPU; its memory is the machine's.
      devices: [
        {
          name: 'cpu',
          type: 'cpu',
          index: null,
          vram_total: ram.total,
          vram_free: ram.free,
          torch_vram_total: 0,
          torch_vram_free: 0,
        },
      ],
    });
  });
}
