/** Files as answers: type by ending, ranges and conditional requests. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { extname } from 'node:path';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { sendEmpty } from './reply.js';

/** Python's names of types that are safe to show whoever wrote the file; all others are bytes to download. */
const CONTENT_TYPES: Readonly<Record<string, string>> = {
  '.png': 'image/png',
  '.jpg': 'image/jpeg',
  '.jpeg': 'image/jpeg',
  '.webp': 'image/webp',
  '.gif': 'image/gif',
  '.bmp': 'image/bmp',
  '.avif': 'image/avif',
  '.heic': 'image/heic',
  '.heif': 'image/heif',
  '.tif': 'image/tiff',
  '.tiff': 'image/tiff',
  '.ico': 'image/vnd.microsoft.icon',
  '.ppm': 'image/x-portable-pixmap',
  '.pgm': 'image/x-portable-graymap',
  '.pbm': 'image/x-portable-bitmap',
  '.json': 'application/json',
  '.txt': 'text/plain',
  '.csv': 'text/csv',
  '.pdf': 'application/pdf',
  '.zip': 'application/zip',
  '.mp4': 'video/mp4',
  '.webm': 'video/webm',
  '.mov': 'video/quicktime',
  '.avi': 'video/x-msvideo',
  '.wav': 'audio/x-wav',
  '.mp3': 'audio/mpeg',
  '.aac': 'audio/aac',
  '.opus': 'audio/opus',
  '.flac': 'audio/flac',
};

/** Types of a front end's own files: programs that the user installed, not content. */
const PROGRAM_TYPES: Readonly<Record<string, string>> = {
  ...CONTENT_TYPES,
  '.html': 'text/html',
  '.js': 'text/javascript; charset=utf-8',
  '.mjs': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.ico': 'image/x-icon',
  '.woff': 'font/woff',
  '.woff2': 'font/woff2',
  '.ttf': 'font/ttf',
  '.wasm': 'application/wasm',
  '.map': 'application/json',
  '.md': 'text/markdown; charset=utf-8',
};

export interface SendFileOptions {
  readonly headers?: Readonly<Record<string, string>>;
  /** The file is part of a program, so scripts and pages keep their types, and what is missing has one, too. */
  readonly isProgram?: boolean;
}

/** Sends a regular file; 404 for anything else. */
export async function sendFile(
  reply: FastifyReply,
  request: FastifyRequest,
  path: string,
  { headers = {}, isProgram = false }: SendFileOptions = {},
): Promise<FastifyReply> {
  const stats = await stat(path).catch(() => undefined);
  if (stats?.isFile() !== true)
    return sendEmpty(isProgram ? reply.header('content-type', 'application/octet-stream') : reply, 404);
  const etag = `"${stats.mtimeMs.toString(16)}-${stats.size.toString(16)}"`;
  const type = (isProgram ? PROGRAM_TYPES : CONTENT_TYPES)[extname(path).toLowerCase()] ?? 'application/octet-stream';
  reply
    .headers({ 'content-type': type, 'x-content-type-options': 'nosniff', 'accept-ranges': 'bytes', ...headers })
    .header('etag', etag)
    .header('last-modified', stats.mtime.toUTCString());
  if (isUnchanged(request, etag, stats.mtimeMs)) return reply.status(304).send();
  const span = readRange(request.headers.range, stats.size);
  if (span === 'unsatisfiable') return reply.status(416).header('content-range', `bytes */${stats.size}`).send();
  if (span === undefined) {
    reply.header('content-length', stats.size);
    // A stream of nothing never ends a HEAD request's turn early; an empty file needs no stream either.
    return reply.send(stats.size === 0 ? '' : createReadStream(path));
  }
  return reply
    .status(206)
    .header('content-range', `bytes ${span.start}-${span.end}/${stats.size}`)
    .header('content-length', span.end - span.start + 1)
    .send(createReadStream(path, span));
}

function isUnchanged(request: FastifyRequest, etag: string, modifiedMs: number): boolean {
  const { 'if-none-match': known, 'if-modified-since': since } = request.headers;
  if (known !== undefined)
    return known === '*' || known.split(',').some((tag) => tag.trim().replace(/^W\//, '') === etag);
  return since !== undefined && Date.parse(since) >= Math.floor(modifiedMs / 1000) * 1000;
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
