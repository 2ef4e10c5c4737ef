/** `/userdata` and `/v2/userdata`: files of users. `{file}` is one segment, its slashes percent-encoded. */
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, relative, sep } from 'node:path';
import type { Stats } from 'node:fs';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { InvalidRequestError, systemCodeOf } from '../../common/errors.js';
import type { Jsonable } from '../../protocol/json.js';
import type { ServerContext } from '../context.js';
import { pathText, queryText, readRawBody, sendEmpty, sendJson, sendText } from '../reply.js';
import { sendFile } from '../send-file.js';
import { replaceFile, userFilePath } from '../user-folders.js';

const MAX_LISTED = 100_000;
const MAX_DEPTH = 64;
const UNKNOWN_USER = 'Invalid user specified in request';

interface FoundFile {
  readonly path: string;
  readonly isFolder: boolean;
  readonly stats: Stats;
}

type WithRoot = (root: string) => Promise<FastifyReply>;

export function registerUserdataRoutes(app: FastifyInstance, { users, dialect }: ServerContext, prefix: string): void {
  const withRoot = async (request: FastifyRequest, reply: FastifyReply, use: WithRoot): Promise<FastifyReply> => {
    const root = users.rootOf(request);
    return root === undefined ? sendText(reply, 403, UNKNOWN_USER) : use(root);
  };
  const time = (ms: number): number => (dialect.hasMillisecondTimes ? Math.floor(ms) : ms / 1000);
  const info = (path: string, base: string, { size, mtimeMs, ctimeMs }: Stats): Jsonable => ({
    path: slashed(relative(base, path)),
    size,
    modified: time(mtimeMs),
    created: time(ctimeMs),
  });
  /** The answer to whoever stored or moved a file. */
  const stored = async (
    reply: FastifyReply,
    request: FastifyRequest,
    root: string,
    path: string,
  ): Promise<FastifyReply> =>
    sendJson(reply, isTrue(request, 'full_info') ? info(path, root, await stat(path)) : slashed(relative(root, path)));

  app.get(`${prefix}/userdata`, (request, reply) =>
    withRoot(request, reply, async (root) => {
      const name = queryText(request, 'dir') ?? '';
      if (name === '') return sendText(reply, 400, 'Directory not provided');
      const folder = await userFilePath(root, name);
      if (folder === undefined) return sendText(reply, 403, 'Invalid directory');
      if ((await statsOf(folder)) === undefined) return sendText(reply, 404, 'Directory not found');
      const files = await listFolder(folder, isTrue(request, 'recurse') ? MAX_DEPTH : 0, { withHidden: false });
      return sendJson(
        reply,
        files
          .filter(({ isFolder }) => !isFolder)
          .map(({ path, stats }): Jsonable => {
            if (isTrue(request, 'full_info')) return info(path, folder, stats);
            const inside = slashed(relative(folder, path));
            return isTrue(request, 'split') ? [inside, ...inside.split('/')] : inside;
          }),
      );
    }),
  );

  app.get(`${prefix}/v2/userdata`, (request, reply) =>
    withRoot(request, reply, async (root) => {
      const folder = await userFilePath(root, queryText(request, 'path') ?? '');
      if (folder === undefined) return sendText(reply, 400, 'Invalid path requested');
      const stats = await statsOf(folder);
      if (stats === undefined)
        return folder === root ? sendJson(reply, []) : sendText(reply, 404, 'Requested path not found');
      if (!stats.isDirectory()) return sendText(reply, 400, 'Requested path is not a directory');
      const found = await listFolder(folder, MAX_DEPTH, { withHidden: true });
      const entries = found.map((entry) => ({ ...entry, name: basename(entry.path) }));
      entries.sort(
        (a, b) => Number(b.isFolder) - Number(a.isFolder) || compareText(a.name.toLowerCase(), b.name.toLowerCase()),
      );
      return sendJson(
        reply,
        entries.map(({ name, path, isFolder, stats: { size, mtimeMs } }): Jsonable => {
          const placed = { name, path: slashed(relative(root, path)) };
          return isFolder
            ? { ...placed, type: 'directory' }
            : { ...placed, type: 'file', size, modified: time(mtimeMs) };
        }),
      );
    }),
  );

  app.get(`${prefix}/userdata/:file`, (request, reply) =>
    withRoot(request, reply, async (root) => {
      const path = await userFilePath(root, pathText(request, 'file'));
      if (path === undefined) return sendEmpty(reply, 403);
      const stats = await statsOf(path);
      if (stats?.isDirectory() === true) return sendEmpty(reply, 403);
      // The front end links it as its own style sheet.
      if (basename(path) === 'user.css')
        return sendFile(reply, request, path, { headers: { 'content-type': 'text/css; charset=utf-8' } });
      return sendFile(reply, request, path, {
        headers: dialect.sendsAttachments ? { 'content-disposition': 'attachment' } : {},
      });
    }),
  );

  app.post(`${prefix}/userdata/:file`, (request, reply) =>
    withRoot(request, reply, async (root) => {
      const path = await userFilePath(root, pathText(request, 'file'));
      if (path === undefined || path === root) return sendEmpty(reply, 403);
      const isKept = queryText(request, 'overwrite') === 'false';
      if (isKept && (await statsOf(path)) !== undefined) return sendText(reply, 409, 'File already exists');
      try {
        await mkdir(dirname(path), { recursive: true });
        await replaceFile(path, readRawBody(request));
      } catch (error) {
        if (systemCodeOf(error) === undefined) throw error;
        return sendText(reply, 400, 'Invalid filename. Please avoid special characters like :\\/*?"<>|');
      }
      return stored(reply, request, root, path);
    }),
  );

  app.delete(`${prefix}/userdata/:file`, (request, reply) =>
    withRoot(request, reply, async (root) => {
      const path = await userFilePath(root, pathText(request, 'file'));
      if (path === undefined) return sendEmpty(reply, 403);
      const stats = await statsOf(path);
      if (stats === undefined) return sendEmpty(reply, 404);
      if (stats.isDirectory()) throw new InvalidRequestError('Folders of users are not deleted, only files.');
      await rm(path);
      return sendEmpty(reply, 204);
    }),
  );

  app.post(`${prefix}/userdata/:file/move/:dest`, (request, reply) =>
    withRoot(request, reply, async (root) => {
      const source = await userFilePath(root, pathText(request, 'file'));
      if (source === undefined || source === root) return sendEmpty(reply, 403);
      if ((await statsOf(source)) === undefined) return sendEmpty(reply, 404);
      const target = await userFilePath(root, pathText(request, 'dest'));
      if (target === undefined || target === root) return sendEmpty(reply, 403);
      const isKept = queryText(request, 'overwrite') === 'false';
      if (isKept && (await statsOf(target)) !== undefined) return sendText(reply, 409, 'File already exists');
      try {
        await mkdir(dirname(target), { recursive: true });
        await rename(source, target);
      } catch (error) {
        if (systemCodeOf(error) === undefined) throw error;
        throw new InvalidRequestError('This cannot be moved there: a folder into itself, or onto a folder.', {
          cause: error,
        });
      }
      return stored(reply, request, root, target);
    }),
  );
}

async function statsOf(path: string): Promise<Stats | undefined> {
  try {
    return await stat(path);
  } catch {
    return undefined; // absent, or below something that is no folder
  }
}

/** Files and folders below a folder, links to folders not followed. Files at the top come first. */
async function listFolder(
  folder: string,
  depth: number,
  { withHidden }: { withHidden: boolean },
): Promise<FoundFile[]> {
  const found: FoundFile[] = [];
  const pending = [{ folder, depth }];
  for (let next = pending.shift(); next !== undefined && found.length < MAX_LISTED; next = pending.shift()) {
    const entries = await readdir(next.folder, { withFileTypes: true }).catch(() => []);
    entries.sort((a, b) => compareText(a.name, b.name));
    for (const entry of entries) {
      if (!withHidden && entry.name.startsWith('.')) continue;
      const path = join(next.folder, entry.name);
      const stats = await statsOf(path);
      if (stats === undefined) continue;
      if (entry.isDirectory()) {
        found.push({ path, isFolder: true, stats });
        if (next.depth > 0) pending.push({ folder: path, depth: next.depth - 1 });
      } else if (stats.isFile()) found.push({ path, isFolder: false, stats });
    }
  }
  return found;
}

function isTrue(request: FastifyRequest, name: string): boolean {
  return queryText(request, name)?.toLowerCase() === 'true';
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function slashed(path: string): string {
  return sep === '/' ? path : path.replaceAll(sep, '/');
}
