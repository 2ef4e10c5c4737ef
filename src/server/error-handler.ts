/** Errors to HTTP answers: the only place that knows status codes of error codes. */
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { BridgeError, type ErrorCode } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import { bodyTooLarge } from './multipart.js';
import { sendJson } from './reply.js';

const STATUS: Readonly<Record<ErrorCode, number>> = {
  INVALID_REQUEST: 400,
  CANCELLED: 499,
  INTERNAL: 500,
  MODEL_UNREADABLE: 422,
  MODEL_FORMAT_UNSUPPORTED: 422,
  SAFETENSORS_INVALID: 422,
  GGUF_INVALID: 422,
  ONNX_INVALID: 422,
  TORCH_INVALID: 422,
  PICKLE_REFUSED: 422,
  SHARDS_INVALID: 422,
  TENSOR_MISSING: 422,
  TENSOR_INVALID: 422,
  COMFYUI_NOT_FOUND: 500,
  PATHS_CONFIG_INVALID: 500,
  UPSTREAM_UNAVAILABLE: 502,
  FOLDER_UNKNOWN: 404,
  MODEL_NOT_FOUND: 404,
  PATH_OUTSIDE_FOLDER: 400,
  IMAGE_INVALID: 422,
  IMAGE_TOO_LARGE: 413,
  VISION_FAMILY_UNKNOWN: 422,
  OUTPUT_UNAVAILABLE: 422,
  QUANTIZATION_REFUSED: 422,
  ADAPTER_UNKNOWN: 422,
  PAIR_MISMATCH: 422,
  EMBEDS_INVALID: 422,
  FACE_NOT_FOUND: 422,
  RUNTIME_UNAVAILABLE: 503,
  RUNTIME_FAILED: 500,
  DEVICE_UNAVAILABLE: 422,
  MEMORY_BUDGET_EXCEEDED: 507,
  BUSY: 503,
  BODY_TOO_LARGE: 413,
  PORT_IN_USE: 500,
  NOT_FOUND: 404,
};

/** What the parser of forms throws for a broken one: plain errors, which only their text tells from defects. */
const BROKEN_FORM = /multipart|^The needle cannot/i;

export function createErrorHandler(
  logger: Logger,
  maxBytes: number,
): (error: FastifyError | BridgeError, request: FastifyRequest, reply: FastifyReply) => FastifyReply {
  return (thrown, request, reply) => {
    if (reply.raw.destroyed) return reply;
    const error = isBodyLimit(thrown) ? bodyTooLarge(maxBytes) : thrown;
    if (error instanceof BridgeError) {
      if (error.code === 'BODY_TOO_LARGE' && !isOwnRoute(request.url)) {
        const text = `Maximum request body size ${maxBytes} exceeded.`; // ComfyUI's own answer
        return reply.status(413).header('content-type', 'text/plain; charset=utf-8').send(text);
      }
      const status = STATUS[error.code];
      if (status >= 500) logger.error({ url: request.url, code: error.code }, error.message);
      return sendJson(reply.status(status), {
        error: {
          code: error.code,
          message: error.message,
          details: JSON.parse(JSON.stringify(error.details)) as never,
        },
      });
    }
    // Requests that were refused before routing know nothing of forms; their errors have a status.
    const status = error.statusCode ?? (request.isMultipart() && BROKEN_FORM.test(error.message) ? 400 : 500);
    if (status < 500)
      return sendJson(reply.status(status), {
        error: { code: 'INVALID_REQUEST', message: error.message, details: {} },
      });
    logger.error({ url: request.url, reason: error.stack ?? error.message }, 'a request failed through a defect');
    return sendJson(reply.status(500), {
      error: { code: 'INTERNAL', message: 'A defect in Vision Bridge; the log has the details.', details: {} },
    });
  };
}

/** Routes that ComfyUI does not have. */
export function isOwnRoute(url: string): boolean {
  return url.startsWith('/bridge/');
}

/** Limits of bytes, not of parts. */
function isBodyLimit(error: FastifyError | BridgeError): boolean {
  return error.code === 'FST_ERR_CTP_BODY_TOO_LARGE' || error.code === 'FST_REQ_FILE_TOO_LARGE';
}

/** What the parser of HTTP refuses never becomes a request; its answer is written by hand. */
const PARSER_ANSWERS: Readonly<Record<string, readonly [status: string, message: string]>> = {
  HPE_HEADER_OVERFLOW: ['431 Request Header Fields Too Large', 'The headers of the request are too large.'],
  ERR_HTTP_REQUEST_TIMEOUT: ['408 Request Timeout', 'The request took too long to arrive.'],
};

/** Answers bytes that are no HTTP. */
export function answerBrokenRequest(error: Error & { code?: string }, socket: Duplex): void {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  const [status, message] = PARSER_ANSWERS[error.code ?? ''] ?? ['400 Bad Request', 'The request is not valid HTTP.'];
  const body = errorBody('INVALID_REQUEST', message);
  const headers = `Content-Type: application/json; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}`;
  socket.end(`HTTP/1.1 ${status}\r\n${headers}\r\nConnection: close\r\n\r\n${body}`);
}

/** Answers an `Expect` header that is not `100-continue`. */
export function answerExpectation(_request: IncomingMessage, response: ServerResponse): void {
  const body = errorBody('INVALID_REQUEST', 'Only the expectation 100-continue is known.');
  const headers = { 'content-type': 'application/json; charset=utf-8', connection: 'close' };
  response.writeHead(417, { ...headers, 'content-length': Buffer.byteLength(body) });
  response.end(body);
}

function errorBody(code: ErrorCode, message: string): string {
  return JSON.stringify({ error: { code, message, details: {} } });
}
