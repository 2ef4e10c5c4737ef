/** `/upload/image` and `/view`: files in and out of the input, output and temp folders. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readFile, stat, writeFile } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Bridge } from '../../bridge.js';
import { systemCodeOf } from '../../common/errors.js';
import { maxUploadBytes } from '../../config.js';
import { resolveInside, splitAnnotation, type FileArea } from '../../paths/index.js';
import { readForm } from '../multipart.js';
import { queryText, sendEmpty, sendJson } from '../reply.js';

const AREAS: readonly string[] = ['input', 'output', 'temp'] satisfies FileArea[];

function isArea(text: string): text is FileArea {
  return AREAS.includes(text);
}

/** Types that are safe to show; all others are bytes to download. */
const CONTENT_TYPES: Readonly<Record<string, string>> = {
  '.png': 'image/png',
  '.jpg': 'image/jpeg',
  '.jpeg': 'image/jpeg',
  '.webp': 'image/webp',
  '.gif': 'image/gif',
  '.bmp': 'image/bmp',
  '.avif': 'image/avif',
  '.tif': 'image/tiff',
  '.tiff': 'image/tiff',
  '.json': 'application/json',
  '.txt': 'text/plain',
  '.mp4': 'video/mp4',
  '.webm': 'video/webm',
  '.wav': 'audio/x-wav',
  '.mp3': 'audio/mpeg',
  '.flac': 'audio/flac',
};

export function registerFileRoutes(app: FastifyInstance, { config, directories }: Bridge, prefix: string): void {
  app.post(`${prefix}/upload/image`, async (request, reply) => {
    const form = await readUpload(request, maxUploadBytes(config));
    if (form.file === undefined || form.file.name === '' || form.file.name === '.' || form.file.name === '..')
      return sendEmpty(reply, 400);
    if (!isArea(form.type)) return sendEmpty(reply, 400);
    const folder = resolveInside(directories[form.type], form.subfolder);
    if (folder === undefined) return sendEmpty(reply, 400);
    await mkdir(folder, { recursive: true });
    const name = await storeUpload(folder, form.file.name, form.file.bytes, form.isOverwrite);
    return sendJson(reply, { name, subfolder: form.subfolder, type: form.type });
  });

  app.get(`${prefix}/view`, async (request, reply) => {
    const given = queryText(request, 'filename');
    if (given === undefined) return sendEmpty(reply, 404);
    const { name, area = queryText(request, 'type') ?? 'output' } = splitAnnotation(given);
    if (name === '' || name.startsWith('/') || name.includes('..') || !isArea(area)) return sendEmpty(reply, 400);
    const folder = resolveInside(directories[area], queryText(request, 'subfolder') ?? '');
    if (folder === undefined) return sendEmpty(reply, 403);
    return sendFile(reply, request, join(folder, basename(name.replaceAll('\\', '/'))));
  });
}

interface Upload {
  file?: { readonly name: string; readonly bytes: Buffer };
  type: string;
  subfolder: string;
  isOverwrite: boolean;
}

async function readUpload(request: FastifyRequest, maxBytes: number): Promise<Upload> {
  const upload: Upload = { type: 'input', subfolder: '', isOverwrite: false };
  if (!request.isMultipart()) return upload;
  for await (const part of readForm(request, maxBytes)) {
    if (part.type === 'file') {
      // A file name is its last component, whatever the client's system writes between them.
      if (part.field === 'image')
        upload.file = { name: basename(part.filename.replaceAll('\\', '/')), bytes: part.bytes };
      continue;
    }
    const { field, value } = part;
    if (field === 'type') upload.type = value;
    if (field === 'subfolder') upload.subfolder = value;
    if (field === 'overwrite') upload.isOverwrite = value === 'true' || value === '1';
  }
  return upload;
}

/** The name it is stored under: the same bytes keep their name, other bytes get ` (1)`, ` (2)`, …. */
async function storeUpload(folder: string, name: string, bytes: Buffer, isOverwrite: boolean): Promise<string> {
  if (isOverwrite) {
    await writeFile(join(folder, name), bytes);
    return name;
  }
  const hash = sha256(bytes);
  const ending = extname(name);
  const stem = name.slice(0, name.length - ending.length);
  for (let count = 0; ; count += 1) {
    const candidate = count === 0 ? name : `${stem} (${count})${ending}`;
    try {
      const file = await open(join(folder, candidate), 'wx');
      try {
        await file.writeFile(bytes);
      } finally {
        await file.close();
      }
      return candidate;
    } catch (error) {
      if (systemCodeOf(error) !== 'EEXIST') throw error;
      if (sha256(await readFile(join(folder, candidate))) === hash) return candidate;
    }
  }
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

async function sendFile(reply: FastifyReply, request: FastifyRequest, path: string): Promise<FastifyReply> {
  const stats = await stat(path).catch(() => undefined);
  if (stats?.isFile() !== true) return sendEmpty(reply, 404);
  const etag = `"${stats.mtimeMs.toString(16)}-${stats.size.toString(16)}"`;
  reply
    .header('content-disposition', `filename="${basename(path).replaceAll('"', '%22')}"`)
    .header('content-type', CONTENT_TYPES[extname(path).toLowerCase()] ?? 'application/octet-stream')
    .header('x-content-type-options', 'nosniff')
    .header('accept-ranges', 'bytes')
    .header('etag', etag)
    .header('last-modified', stats.mtime.toUTCString());
  const { 'if-none-match': known, 'if-modified-since': since, range } = request.headers;
  if (
    known === etag ||
    (known === undefined && since !== undefined && Date.parse(since) >= Math.floor(stats.mtimeMs / 1000) * 1000)
  ) {
    return reply.status(304).send();
  }
  const span = readRange(range, stats.size);
  if (span === 'unsatisfiable') return reply.status(416).header('content-range', `bytes */${stats.size}`).send();
  if (span === undefined) return reply.header('content-length', stats.size).send(createReadStream(path));
  return reply
    .status(206)
    .header('content-range', `bytes ${span.start}-${span.end}/${stats.size}`)
    .header('content-length', span.end - span.start + 1)
    .send(createReadStream(path, span));
}

/** One range; several are answered with the whole file, as HTTP allows. */
function readRange(
  header: string | undefined,
  size: number,
): { start: number; end: number } | 'unsatisfiable' | undefined {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '');
  if (match === null || (match[1] === '' && match[2] === '')) return undefined;
  const [, first = '', last = ''] = match;
  const start = first === '' ? Math.max(0, size - Number(last)) : Number(first);
  const end = first === '' || last === '' ? size - 1 : Math.min(Number(last), size - 1);
  return start > end || start >= size ? 'unsatisfiable' : { start, end };
}
