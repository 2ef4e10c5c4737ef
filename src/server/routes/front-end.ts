/**
 * The front end and what it reads at its start. Without one, `/` is a page that says what runs here.
 *
 * Files are served from the front end's own folders only.
 */
import { readdir, stat } from 'node:fs/promises';
import { join, relative, sep } from 'node:path';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { resolveInside } from '../../paths/index.js';
import type { ServerContext } from '../context.js';
import { templateFolders, translations, workflowTemplates } from '../custom-node-extras.js';
import { pathText, sendEmpty, sendJson } from '../reply.js';
import { sendFile } from '../send-file.js';

const NO_CACHE = { 'cache-control': 'no-cache', pragma: 'no-cache', expires: '0' };
const MAX_EXTENSIONS = 10_000;

export function registerStartUpRoutes(app: FastifyInstance, { bridge, frontEnd }: ServerContext, prefix: string): void {
  const packRoots = (): string[] => bridge.paths.folders('custom_nodes').map(({ path }) => path);

  app.get(`${prefix}/extensions`, async (_request, reply) =>
    sendJson(reply, frontEnd.root === undefined ? [] : await listScripts(frontEnd.root)),
  );
  app.get(`${prefix}/i18n`, async (_request, reply) => sendJson(reply, await translations(packRoots())));
  app.get(`${prefix}/workflow_templates`, async (_request, reply) =>
    sendJson(reply, await workflowTemplates(packRoots())),
  );
  // Nodes of other packs are not served, so there is nothing to replace them by, and no blueprint of theirs.
  app.get(`${prefix}/node_replacements`, (_request, reply) => sendJson(reply, {}));
  app.get(`${prefix}/global_subgraphs`, (_request, reply) => sendJson(reply, {}));
  app.get(`${prefix}/global_subgraphs/:id`, (_request, reply) => sendJson(reply, null));
}

export function registerFrontEndRoutes(app: FastifyInstance, context: ServerContext): void {
  const { bridge, frontEnd } = context;

  const index = async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    if (frontEnd.root !== undefined)
      return sendFile(reply, request, join(frontEnd.root, 'index.html'), { isProgram: true, headers: NO_CACHE });
    return reply.headers({ ...NO_CACHE, 'content-type': 'text/html' }).send(indexPage(context));
  };
  app.get('/', index);
  app.get('/api/', index);

  if (frontEnd.root !== undefined && !frontEnd.mounts.has('/templates')) {
    // Where the package of templates is missing, a front end that is told 404 shows its first dialog waiting for ever.
    const own = join(frontEnd.root, 'templates', 'index.json');
    app.get('/templates/index.json', async (request, reply) =>
      (await isFile(own)) ? sendFile(reply, request, own, { isProgram: true }) : sendJson(reply, []),
    );
  }

  app.get('/api/workflow_templates/:pack/:file', async (request, reply) => {
    const roots = bridge.paths.folders('custom_nodes').map(({ path }) => path);
    for (const folder of await templateFolders(roots, pathText(request, 'pack'))) {
      const path = resolveInside(folder, pathText(request, 'file'));
      if (path === undefined) return sendEmpty(reply, 403);
      const names = await readdir(folder).catch((): string[] => []);
      if (names.includes(relative(folder, path))) return sendFile(reply, request, path);
    }
    return sendEmpty(reply, 404);
  });
}

/** The file that a path means in the folders of the front end; undefined where it can mean none. */
export function frontEndFile({ root: mainRoot, mounts }: ServerContext['frontEnd'], url: string): string | undefined {
  const path = decodedPath(url);
  if (path === undefined || path.endsWith('/') || path.includes('\\')) return undefined;
  const mount = [...mounts].find(([prefix]) => path.startsWith(`${prefix}/`));
  const root = mount?.[1] ?? mainRoot;
  if (root === undefined) return undefined;
  return resolveInside(root, `.${mount === undefined ? path : path.slice(mount[0].length)}`);
}

async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() === true;
}

function decodedPath(url: string): string | undefined {
  try {
    return decodeURIComponent(url.replace(/[?#].*$/, ''));
  } catch {
    return undefined;
  }
}

/** `/extensions/….js` of the front end itself. */
async function listScripts(root: string): Promise<string[]> {
  const folder = join(root, 'extensions');
  const entries = await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => []);
  return entries
    .filter((entry) => entry.isFile() && entry.name.endsWith('.js'))
    .slice(0, MAX_EXTENSIONS)
    .map(({ parentPath, name }) => `/extensions/${relative(folder, join(parentPath, name)).split(sep).join('/')}`)
    .sort();
}

function indexPage({ bridge, dialect }: ServerContext): string {
  const nodes = [...bridge.nodes.keys()].sort().map((name) => `<li><code>${escapeHtml(name)}</code></li>`);
  const waiting = bridge.queue.remaining;
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Vision Bridge</title></head>
<body>
<h1>Vision Bridge</h1>
<p>This server speaks the prompt protocol of ComfyUI ${escapeHtml(dialect.comfyuiVersion)}. ${waiting} prompts wait or run.</p>
<p>No ComfyUI front end was found; name one with <code>--front-end-root FOLDER</code>.</p>
<ul>
<li><a href="/bridge/v1/health">what was found</a></li>
<li><a href="/object_info">the nodes</a>, <a href="/queue">the queue</a>, <a href="/history">the history</a></li>
<li><a href="/models">the model folders</a>, <a href="/bridge/v1/paths">where they are</a></li>
</ul>
<h2>Nodes</h2>
<ul>${nodes.join('')}</ul>
</body>
</html>
`;
}

function escapeHtml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}
