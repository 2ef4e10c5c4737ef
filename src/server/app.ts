/** The fastify app: guard, limits, headers that depend on the path, what unknown paths and methods get. */
import { gzip } from 'node:zlib';
import { promisify } from 'node:util';
import multipart from '@fastify/multipart';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { BridgeError } from '../common/errors.js';
import { maxUploadBytes } from '../config.js';
import type { ServerContext } from './context.js';
import type { Dialect } from './dialect.js';
import { createErrorHandler, isOwnRoute } from './error-handler.js';
import { checkRequest, queryOf, TOKEN_COOKIE, type GuardOptions } from './guard.js';
import { bodyTooLarge, FORM_HEADS_BYTES } from './multipart.js';
import { sendEmpty, sendText } from './reply.js';
import { registerRoutes } from './routes/index.js';
import { frontEndFile } from './routes/front-end.js';
import { sendFile } from './send-file.js';

const PICTURE_PATH = /\.(jpe?g|png|ppm|bmp|pgm|tiff?|webp)$/i;
const ONE_DAY_S = 86_400;
const ONE_HOUR_S = 3600;
/** Smaller answers do not become smaller. */
const MIN_COMPRESSED_BYTES = 256;
/** Forms hold far fewer. */
const FORM_LIMITS = { files: 1000, fields: 1000, parts: 2000, headerPairs: 100 };

/** Bodies are parsed by protocol/; the compilers of JSON Schema are a hundred files that a start need not wait for. */
const NO_SCHEMAS = { buildValidator: refuseSchema, buildSerializer: refuseSchema };

const compress = promisify(gzip);

export async function createApp(context: ServerContext, guard: GuardOptions): Promise<FastifyInstance> {
  const { config, logger } = context.bridge;
  const { corsMethods } = context.dialect;
  const bodyLimit = maxUploadBytes(config);
  const handleError = createErrorHandler(logger, bodyLimit);
  const app = fastify({
    bodyLimit,
    schemaController: { compilersFactory: NO_SCHEMAS },
    routerOptions: { ignoreTrailingSlash: false, caseSensitive: true, maxParamLength: 4096 },
    exposeHeadRoutes: true,
    // Before routing: an address that is no address.
    frameworkErrors: (error, request, reply) => void handleError(error, request, reply),
  });
  app.removeAllContentTypeParsers();
  // ComfyUI parses bodies as JSON whatever their type says.
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => {
    done(null, body);
  });
  await app.register(multipart, { limits: { fileSize: bodyLimit, ...FORM_LIMITS } });
  app.setErrorHandler(handleError);
  const methodsOf = collectRoutes(app);
  const answerUnknown = async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    if (isOwnRoute(request.url)) throw new BridgeError('NOT_FOUND', `There is no ${request.method} ${request.url}.`);
    if (request.method === 'GET' || request.method === 'HEAD') {
      const file = frontEndFile(context.frontEnd, request.url);
      if (file !== undefined) return sendFile(reply, request, file, { isProgram: true });
      return sendEmpty(reply.header('content-type', 'application/octet-stream'), 404);
    }
    // Of unknown paths the static files of the front end are the owner, and they are only read.
    const methods = methodsOf(pathOf(request)) ?? ['GET', 'HEAD'];
    return sendText(reply.header('allow', methods.join(',')), 405, '405: Method Not Allowed');
  };
  app.setNotFoundHandler(answerUnknown);
  app.addHook('onRequest', async (request, reply) => {
    const refusal = checkRequest(request.raw, guard);
    if (refusal !== undefined) {
      logger.warn({ path: pathOf(request), reason: refusal.reason }, 'request refused');
      await reply.status(refusal.status).send();
      return;
    }
    rememberToken(request, reply, guard);
    if (config.enableCorsHeader !== undefined) {
      reply
        .header('access-control-allow-origin', config.enableCorsHeader)
        .header('access-control-allow-methods', corsMethods)
        .header('access-control-allow-headers', 'Content-Type, Authorization')
        .header('access-control-allow-credentials', 'true');
    }
    if (request.method === 'OPTIONS') await sendEmpty(reply);
    else if (claimedBytes(request) > bodyLimit) {
      // Told before the body is read; what still comes is not waited for.
      reply.header('connection', 'close');
      throw bodyTooLarge(bodyLimit);
    } else if (/.\/$/.test(pathOf(request)) && pathOf(request) !== '/api/') {
      // A slash at the end makes another path.
      await answerUnknown(request, reply);
    }
  });
  app.addHook('onSend', async (request, reply, payload) => {
    setCaching(context.dialect, request, reply);
    if (!config.enableCompressResponseBody) return payload;
    return compressed(request, reply, payload);
  });
  registerRoutes(app, context);
  await app.ready();
  return app;
}

/** Which methods a path of ours takes, for the answer to the others; undefined for a path that is none of ours. */
function collectRoutes(app: FastifyInstance): (path: string) => readonly string[] | undefined {
  const routes = new Map<string, Set<string>>();
  app.addHook('onRoute', ({ url, method }) => {
    const methods = routes.get(url) ?? new Set<string>();
    for (const name of Array.isArray(method) ? method : [method]) methods.add(name);
    routes.set(url, methods);
  });
  return (path) => {
    const found = [...routes].filter(([url]) => matches(url.split('/'), path.split('/')));
    const methods = new Set(found.flatMap(([, names]) => [...names]));
    if (methods.size === 0) return undefined;
    // Every path may be asked for: where no route answers, the static files do.
    return [...methods.add('GET').add('HEAD')].sort();
  };
}

function matches(pattern: readonly string[], path: readonly string[]): boolean {
  if (pattern.at(-1) !== '*' && pattern.length !== path.length) return false;
  return pattern.every((part, i) => part === '*' || part === path[i] || (part.startsWith(':') && path[i] !== ''));
}

function pathOf(request: FastifyRequest): string {
  return request.url.replace(/[?#].*$/, '');
}

/** What a request says of its contents; the heads of a form's parts are not counted. */
function claimedBytes(request: FastifyRequest): number {
  const bytes = Number(request.headers['content-length'] ?? 0);
  const isForm = request.headers['content-type']?.startsWith('multipart/') === true;
  return isForm ? bytes - FORM_HEADS_BYTES : bytes;
}

/** A page that was opened with `?token=` loads its files with a cookie: it cannot add the token to each of them. */
function rememberToken(request: FastifyRequest, reply: FastifyReply, { token }: GuardOptions): void {
  if (token === undefined || request.method !== 'GET' || pathOf(request) !== '/') return;
  if (queryOf(request.raw).get('token') !== token) return;
  reply.header('set-cookie', `${TOKEN_COOKIE}=${encodeURIComponent(token)}; Path=/; HttpOnly; SameSite=Strict`);
}

/** By the request's path alone, and only where the route set nothing. */
function setCaching({ scriptCaching }: Dialect, request: FastifyRequest, reply: FastifyReply): void {
  if (reply.hasHeader('cache-control')) return;
  const path = pathOf(request);
  const name = path.slice(path.lastIndexOf('/') + 1);
  const { statusCode: status } = reply;
  if (path.endsWith('.js') || path.endsWith('.css') || (name.startsWith('index') && name.endsWith('.json')))
    reply.header('cache-control', scriptCaching);
  else if (!PICTURE_PATH.test(path)) return;
  else if (status === 404) reply.header('cache-control', `public, max-age=${ONE_HOUR_S}`);
  else if ((status >= 200 && status <= 206) || status === 301 || status === 308)
    reply.header('cache-control', `public, max-age=${ONE_DAY_S}`);
  else if (status === 302 || status === 303 || status === 307) reply.header('cache-control', 'no-cache');
}

async function compressed(request: FastifyRequest, reply: FastifyReply, payload: unknown): Promise<unknown> {
  const type = String(reply.getHeader('content-type') ?? '');
  const isText = type.startsWith('application/json') || type.startsWith('text/plain');
  if (!isText || request.headers['accept-encoding']?.includes('gzip') !== true) return payload;
  if (typeof payload !== 'string' && !(payload instanceof Buffer)) return payload;
  if (Buffer.byteLength(payload) < MIN_COMPRESSED_BYTES) return payload;
  const bytes = await compress(payload);
  reply.removeHeader('content-length').header('content-encoding', 'gzip').header('vary', 'Accept-Encoding');
  return bytes;
}

function refuseSchema(): never {
  throw new BridgeError('INTERNAL', 'Routes have no JSON Schemas here; protocol/ parses what comes.');
}
