/** Answers in ComfyUI's forms. */
import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { InvalidRequestError } from '../common/errors.js';
import { parseJson, writeJson, type JsonValue, type Jsonable } from '../protocol/json.js';

/** Type of bodies that carry tensors. */
export const SAFETENSORS = 'application/vnd.safetensors';

export function sendJson(reply: FastifyReply, value: Jsonable): FastifyReply {
  return reply.header('content-type', 'application/json; charset=utf-8').send(writeJson(value));
}

/** Status alone, no bytes: how ComfyUI answers most commands and refusals. */
export function sendEmpty(reply: FastifyReply, status = 200): FastifyReply {
  return reply.status(status).send();
}

/** Bytes one after the other, which are not joined before they are sent. */
export function sendParts(reply: FastifyReply, parts: readonly Uint8Array[]): FastifyReply {
  const length = parts.reduce((sum, part) => sum + part.byteLength, 0);
  const buffers = parts.map(({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength));
  return reply.header('content-length', length).send(Readable.from(buffers));
}

/** Fires when the caller goes away before the answer is written. */
export function abortWhenClosed(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  reply.raw.on('close', () => {
    if (!reply.raw.writableFinished) controller.abort();
  });
  return controller.signal;
}

export function sendText(reply: FastifyReply, status: number, text: string): FastifyReply {
  return reply.status(status).header('content-type', 'text/plain; charset=utf-8').send(text);
}

/** What ComfyUI sends when one of its own files is at fault: not the request, and not a defect of the server either. */
export function sendServerError(reply: FastifyReply): FastifyReply {
  return sendText(reply, 500, '500 Internal Server Error\n\nServer got itself in trouble');
}

/** The bytes of the body; none where there is no body. @throws {InvalidRequestError} for a form */
export function readRawBody(request: FastifyRequest): Buffer {
  if (request.body instanceof Buffer) return request.body;
  if (request.body === undefined || request.body === null) {
    if (request.isMultipart()) throw new InvalidRequestError('Send the content itself as the body, not a form.');
    return Buffer.alloc(0);
  }
  throw new InvalidRequestError('The body is not bytes.');
}

/** The body as JSON, whole floats kept as such, whatever the content type says. @throws {InvalidRequestError} */
export function readJsonBody(request: FastifyRequest): JsonValue {
  const { body } = request;
  if (!(body instanceof Buffer) || body.length === 0) throw new InvalidRequestError('A JSON body is needed.');
  return parseJson(body.toString('utf8'), { keepsFloats: true });
}

/** One value of a query parameter: the first, where it is given twice. */
export function queryText(request: FastifyRequest, name: string): string | undefined {
  const value = (request.query as Record<string, unknown>)[name];
  const first: unknown = Array.isArray(value) ? value[0] : value;
  return typeof first === 'string' ? first : undefined;
}

/** A path parameter, decoded. */
export function pathText(request: FastifyRequest, name: string): string {
  const value = (request.params as Record<string, unknown>)[name];
  return typeof value === 'string' ? value : '';
}
