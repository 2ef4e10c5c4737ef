/** Errors to HTTP answers: the only place that knows status codes of error codes. */
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import { BridgeError, type ErrorCode } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
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
  RUNTIME_UNAVAILABLE: 503,
  RUNTIME_FAILED: 500,
  DEVICE_UNAVAILABLE: 422,
  MEMORY_BUDGET_EXCEEDED: 507,
  BUSY: 503,
  PORT_IN_USE: 500,
  NOT_FOUND: 404,
};

/** What the parser of forms throws for a broken one: plain errors, which only their text tells from defects. */
const BROKEN_FORM = /multipart|^The needle cannot/i;

export function createErrorHandler(
  logger: Logger,
): (error: FastifyError | BridgeError, request: FastifyRequest, reply: FastifyReply) => FastifyReply {
  return (error, request, reply) => {
    if (reply.raw.destroyed) return reply;
    if (error instanceof BridgeError) {
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
    const isBrokenForm = request.isMultipart() && BROKEN_FORM.test(error.message);
    const status = error.statusCode ?? (isBrokenForm ? 400 : 500);
    if (status === 413)
      return sendJson(reply.status(413), {
        error: { code: 'INVALID_REQUEST', message: 'The request body is larger than --max-upload-size.', details: {} },
      });
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
