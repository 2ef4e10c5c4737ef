/** `/upload/image`, `/upload/mask`. */
import { createHash } from 'node:crypto';
import { mkdir, open, readFile, stat, writeFile } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import * as z from 'zod';
import type { Bridge } from '../../bridge.js';
import { InvalidRequestError, systemCodeOf } from '../../common/errors.js';
import { maxUploadBytes } from '../../config.js';
import { replaceAlpha } from '../../image/index.js';
import { isFileArea, resolveInside, splitAnnotation } from '../../paths/index.js';
import type { ServerContext } from '../context.js';
import { readForm } from '../multipart.js';
import { sendEmpty, sendJson } from '../reply.js';

const MAX_NAME_BYTES = 255; // of most file systems
/** Candidates ` (1)`, ` (2)`, … before we give up. */
const MAX_RENAMES = 10_000;

const originalSchema = z.object({
  filename: z.string().min(1),
  subfolder: z.string().default(''),
  type: z.string().default('output'),
});

interface Upload {
  file?: { readonly name: string; readonly bytes: Buffer };
  type: string;
  subfolder: string;
  isOverwrite: boolean;
  originalRef?: string;
}

export function registerUploadRoutes(app: FastifyInstance, { bridge }: ServerContext, prefix: string): void {
  const limit = maxUploadBytes(bridge.config);

  app.post(`${prefix}/upload/image`, async (request, reply) => {
    const upload = await readUpload(request, limit);
    return store(reply, bridge, upload, (bytes) => Promise.resolve(bytes));
  });

  app.post(`${prefix}/upload/mask`, async (request, reply) => {
    const upload = await readUpload(request, limit);
    return store(reply, bridge, upload, async (mask) =>
      replaceAlpha(await readOriginal(bridge, upload.originalRef), mask),
    );
  });
}

/** @param convert From the bytes that were sent to those that are stored. */
async function store(
  reply: FastifyReply,
  { directories }: Bridge,
  { file, type, subfolder, isOverwrite }: Upload,
  convert: (bytes: Buffer) => Promise<Buffer>,
): Promise<FastifyReply> {
  if (file === undefined || file.name === '' || !isFileArea(type)) return sendEmpty(reply, 400);
  const folder = resolveInside(directories[type], subfolder);
  if (folder === undefined || resolveInside(directories[type], join(subfolder, file.name)) === undefined)
    return sendEmpty(reply, 400);
  // A file name is its last component, whatever the client's system writes between them.
  const name = basename(file.name.replaceAll('\\', '/'));
  if (name === '' || name === '.' || name === '..' || Buffer.byteLength(name) > MAX_NAME_BYTES)
    return sendEmpty(reply, 400);
  const bytes = await convert(file.bytes);
  let stored: string;
  try {
    await mkdir(folder, { recursive: true });
    stored = await storeBytes(folder, name, bytes, isOverwrite);
  } catch (error) {
    // A file where a folder should be, a name that the file system refuses.
    if (['ENOTDIR', 'EEXIST', 'EISDIR', 'ENAMETOOLONG', 'EINVAL'].includes(systemCodeOf(error) ?? ''))
      return sendEmpty(reply, 400);
    throw error;
  }
  return sendJson(reply, { name: stored, subfolder, type });
}

async function readUpload(request: FastifyRequest, limit: number): Promise<Upload> {
  const upload: Upload = { type: 'input', subfolder: '', isOverwrite: false };
  if (!request.isMultipart()) return upload;
  for await (const part of readForm(request, limit, { preservePath: true })) {
    if (part.type === 'file') {
      if (part.field === 'image') upload.file = { name: part.filename, bytes: part.bytes };
      continue;
    }
    const { field, value } = part;
    if (field === 'type') upload.type = value;
    if (field === 'subfolder') upload.subfolder = value;
    if (field === 'overwrite') upload.isOverwrite = value === 'true' || value === '1';
    if (field === 'original_ref') upload.originalRef = value;
  }
  return upload;
}

/** @throws {InvalidRequestError} where `original_ref` names no file that may be read */
async function readOriginal({ directories }: Bridge, text: string | undefined): Promise<Buffer> {
  const refuse = (problem: string): InvalidRequestError =>
    new InvalidRequestError(
      `"original_ref" ${problem}. It is JSON text: {"filename": text, "subfolder"?: text, "type"?: "output"}.`,
    );
  if (text === undefined) throw refuse('is missing');
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw refuse('is not JSON');
  }
  const parsed = originalSchema.safeParse(json);
  if (!parsed.success) throw refuse('has no usable "filename"');
  const { name, area = parsed.data.type } = splitAnnotation(parsed.data.filename);
  if (!isFileArea(area) || name === '') throw refuse('names no folder that there is');
  const folder = resolveInside(directories[area], parsed.data.subfolder);
  const path = folder === undefined ? undefined : resolveInside(folder, name);
  if (path === undefined) throw refuse('leads out of its folder');
  if ((await stat(path).catch(() => undefined))?.isFile() !== true)
    throw refuse(`names no file: "${name}" is not there`);
  return readFile(path);
}

/** The name it is stored under: the same bytes keep their name, other bytes get ` (1)`, ` (2)`, …. */
async function storeBytes(folder: string, name: string, bytes: Buffer, isOverwrite: boolean): Promise<string> {
  if (isOverwrite) {
    await writeFile(join(folder, name), bytes);
    return name;
  }
  const hash = sha256(bytes);
  const ending = extname(name);
  const stem = name.slice(0, name.length - ending.length);
  for (let count = 0; count < MAX_RENAMES; count += 1) {
    const candidate = count === 0 ? name : `${stem} (${count})${ending}`;
    const path = join(folder, candidate);
    try {
      const file = await open(path, 'wx');
      try {
        await file.writeFile(bytes);
      } finally {
        await file.close();
      }
      return candidate;
    } catch (error) {
      if (systemCodeOf(error) !== 'EEXIST') throw error;
      const stats = await stat(path).catch(() => undefined);
      if (stats?.isFile() === true && stats.size === bytes.length && sha256(await readFile(path)) === hash)
        return candidate;
    }
  }
  throw new InvalidRequestError(`There are ${MAX_RENAMES} files of this name already; choose another.`);
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
