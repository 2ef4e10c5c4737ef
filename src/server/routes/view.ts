/** `/view`: stored files, whole or in part, and pictures encoded again. */
import { stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { FastifyInstance, FastifyReply } from 'fastify';
import { BridgeError } from '../../common/errors.js';
import { encodeChannels, encodePreview } from '../../image/index.js';
import { isFileArea, resolveInside, splitAnnotation } from '../../paths/index.js';
import type { ServerContext } from '../context.js';
import { queryText, sendEmpty, sendServerError } from '../reply.js';
import { sendFile } from '../send-file.js';

const DEFAULT_QUALITY = 90;

export function registerViewRoutes(app: FastifyInstance, { bridge }: ServerContext, prefix: string): void {
  const { directories, logger } = bridge;

  /** A file on the disk that is no picture is not the client's error. */
  const sendImage = async (reply: FastifyReply, type: string, encode: Promise<Buffer>): Promise<FastifyReply> => {
    let bytes: Buffer;
    try {
      bytes = await encode;
    } catch (error) {
      if (!(error instanceof BridgeError) || error.code !== 'IMAGE_INVALID') throw error;
      logger.warn({ reason: error.message }, 'a picture could not be shown');
      return sendServerError(reply.removeHeader('content-disposition'));
    }
    return reply.header('content-type', type).send(bytes);
  };

  app.get(`${prefix}/view`, async (request, reply) => {
    const given = queryText(request, 'filename');
    if (given === undefined) return sendEmpty(reply, 404);
    const { name, area = queryText(request, 'type') ?? 'output' } = splitAnnotation(given);
    if (name === '' || name.startsWith('/') || name.includes('..') || !isFileArea(area)) return sendEmpty(reply, 400);
    const folder = resolveInside(directories[area], queryText(request, 'subfolder') ?? '');
    if (folder === undefined) return sendEmpty(reply, 403);
    if (name.includes('\0')) return sendEmpty(reply, 404); // no file has such a name
    const path = join(folder, basename(name.replaceAll('\\', '/')));
    const disposition = { 'content-disposition': `filename="${headerText(basename(path))}"` };
    const preview = queryText(request, 'preview');
    const channel = queryText(request, 'channel') ?? '';
    if (preview === undefined && channel !== 'rgb' && channel !== 'a')
      return sendFile(reply, request, path, { headers: disposition });
    if ((await stat(path).catch(() => undefined))?.isFile() !== true) return sendEmpty(reply, 404);
    reply.headers(disposition);
    if (preview === undefined)
      return sendImage(reply, 'image/png', encodeChannels(path, channel === 'rgb' ? 'rgb' : 'alpha'));
    const options = previewOptions(preview, channel);
    return sendImage(reply, `image/${options.format}`, encodePreview(path, options));
  });
}

/** `webp;90`: format and quality. What is neither webp nor jpeg, or asks for alpha, becomes webp. */
function previewOptions(preview: string, channel: string): Parameters<typeof encodePreview>[1] {
  const parts = preview.split(';');
  const format = parts[0] === 'jpeg' && !channel.includes('a') ? 'jpeg' : 'webp';
  const last = parts.at(-1) ?? '';
  return {
    format,
    quality: /^\d+$/.test(last) ? Math.min(100, Number(last)) : DEFAULT_QUALITY,
    dropAlpha: channel === 'rgb',
  };
}

/** A file name between the quotes of a header: its UTF-8 bytes, as ComfyUI sends them. */
function headerText(name: string): string {
  const bytes = Buffer.from(name).toString('latin1');
  return bytes.replaceAll(/["\\]/g, '\\$&').replaceAll(/[^\x20-\x7e\x80-\xff]/g, encodeURIComponent);
}
