/** A page that gives an extension what ComfyUI's front end gives it: app, api, a sidebar, toasts, a graph. */
import { readdir, readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const PACK = fileURLToPath(new URL('../../comfy-nodes', import.meta.url));

const HTML = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <title>ComfyUI</title>
    <style>
      :root { --fg-color: #222; --comfy-menu-bg: #f5f5f5; --comfy-input-bg: #fff; --input-text: #111; --border-color: #767676; }
      .dark { --fg-color: #eee; --comfy-menu-bg: #202020; --comfy-input-bg: #2b2b2b; --input-text: #eee; --border-color: #8a8a8a; }
      body { margin: 0; font-family: sans-serif; background: var(--comfy-menu-bg); }
      #sidebar { width: 360px; height: 100vh; }
    </style>
  </head>
  <body>
    <main id="sidebar"></main>
    <script type="module" src="/extensions/any-name/vision_bridge.js"></script>
  </body>
</html>`;

const APP = `
const page = (globalThis.page = { toasts: [], extensions: [], tabs: [], locale: 'en' });
export const app = {
  graph: { serialize: () => page.workflow ?? { nodes: [] }, _nodes: [], links: {}, getNodeById: (id) => page.nodes?.[id] },
  ui: { settings: { getSettingValue: () => page.locale } },
  registerExtension(extension) {
    page.extensions.push(extension);
    void extension.setup?.();
  },
  extensionManager: {
    toast: { add: (toast) => page.toasts.push(toast) },
    registerSidebarTab(tab) {
      page.tabs.push(tab);
      tab.render(document.getElementById('sidebar'));
    },
  },
};
page.app = app;
`;

const API = `export const api = { fetchApi: (path, options) => fetch('/api' + path, options) };`;

type Answer = (
  method: string,
  path: string,
  body: unknown,
) => { status: number; body: unknown } | Promise<{ status: number; body: unknown }>;

export interface ComfyUIPage extends AsyncDisposable {
  readonly url: string;
}

/** @param answer What the pack's same-origin routes answer. */
export async function serveComfyUIPage(answer: Answer): Promise<ComfyUIPage> {
  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const url = new URL(request.url ?? '/', 'http://localhost');
    const send = (status: number, type: string, body: string | Buffer): void => {
      response.writeHead(status, { 'content-type': type }).end(body);
    };
    if (url.pathname === '/') send(200, 'text/html', HTML);
    else if (url.pathname === '/favicon.ico') send(204, 'image/x-icon', '');
    else if (url.pathname === '/scripts/app.js') send(200, 'text/javascript', APP);
    else if (url.pathname === '/scripts/api.js') send(200, 'text/javascript', API);
    else if (url.pathname === '/api/i18n') send(200, 'application/json', JSON.stringify(await readLocales()));
    else if (url.pathname.startsWith('/extensions/any-name/')) {
      const name = url.pathname.slice('/extensions/any-name/'.length);
      const type = extname(name) === '.css' ? 'text/css' : 'text/javascript';
      send(200, type, await readFile(join(PACK, 'web', name)));
    } else {
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      const text = Buffer.concat(chunks).toString();
      const body: unknown = text === '' ? undefined : JSON.parse(text);
      const result = await answer(
        request.method ?? 'GET',
        url.pathname.replace('/api/vision_bridge/', '') + url.search,
        body,
      );
      send(result.status, 'application/json', JSON.stringify(result.body));
    }
  };
  const server = createServer((request, response) => {
    handle(request, response).catch((error: unknown) => {
      response.writeHead(500).end(String(error));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** As ComfyUI serves them: main.json of every language. */
async function readLocales(): Promise<Record<string, unknown>> {
  const languages = await readdir(join(PACK, 'locales'));
  const texts = languages.map(async (language): Promise<[string, unknown]> => [
    language,
    JSON.parse(await readFile(join(PACK, 'locales', language, 'main.json'), 'utf8')),
  ]);
  return Object.fromEntries(await Promise.all(texts));
}
