/** `/system_stats` and `/features`: what clients ask first. */
import { freemem, totalmem } from 'node:os';
import type { FastifyInstance } from 'fastify';
import type { Bridge } from '../../bridge.js';
import type { Jsonable } from '../../protocol/json.js';
import type { ServerContext } from '../context.js';
import { sendJson } from '../reply.js';

/**
 * ComfyUI's arguments. No paid node is served here, and front ends that read so do not ask the internet for news of
 * ComfyUI's releases.
 */
const ARGUMENTS = ['vision-bridge', '--disable-api-nodes'];

/** What the websocket handshake and `/features` tell. */
export function serverFeatures({ config }: Bridge): Jsonable {
  const features = { supports_preview_metadata: true, max_upload_size: config.maxUploadSize * 1024 * 1024 };
  // Newer clients fall back where a feature is told to be absent.
  return config.dialect === 'latest' ? { ...features, node_replacements: true, assets: false } : features;
}

export function registerSystemRoutes(app: FastifyInstance, { bridge, dialect }: ServerContext, prefix: string): void {
  app.get(`${prefix}/features`, (_request, reply) => sendJson(reply, serverFeatures(bridge)));

  app.get(`${prefix}/system_stats`, (_request, reply) => {
    const ram = { total: totalmem(), free: freemem() };
    return sendJson(reply, {
      system: {
        os: dialect.namesPlatform ? process.platform : process.platform === 'win32' ? 'nt' : 'posix',
        ram_total: ram.total,
        ram_free: ram.free,
        comfyui_version: dialect.comfyuiVersion,
        required_frontend_version: dialect.requiredFrontendVersion,
        installed_templates_version: null,
        required_templates_version: dialect.requiredTemplatesVersion,
        ...(dialect.namesPlatform ? { comfy_package_versions: [], deploy_environment: 'local' } : {}),
        python_version: '',
        pytorch_version: '',
        embedded_python: false,
        argv: ARGUMENTS,
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
