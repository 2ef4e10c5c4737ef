/**
 * The one error catalogue.
 *
 * Every failure that a user can meet has a code here and a row in the README (a test counts them). Messages say what
 * happened, with which value, and what to do. Mapping to HTTP is server/error-handler.ts; exit codes are cli/.
 */

/** Code of every error, with the meaning that the README prints. Grouped by the room that raises it. */
export const ERROR_CODES = {
  // common
  INVALID_REQUEST: 'A request, flag or argument has the wrong shape or a value that is not allowed.',
  CANCELLED: 'The caller cancelled the work, or closed the connection.',
  INTERNAL: 'A defect in Vision Bridge. Please report it with the log.',
  // formats
  MODEL_UNREADABLE: 'A model file cannot be opened or read.',
  MODEL_FORMAT_UNSUPPORTED: 'The file is no model container that Vision Bridge reads.',
  SAFETENSORS_INVALID: 'A safetensors header is malformed, absurd, or does not fit the file (truncated download).',
  GGUF_INVALID: 'A GGUF file is malformed, or ends inside its header.',
  ONNX_INVALID: 'An ONNX file is malformed, or ends inside its graph.',
  TORCH_INVALID: 'A PyTorch file is malformed, absurd, or does not fit its own table (truncated download).',
  PICKLE_REFUSED: 'A pickle asks Python for something other than tensors. It is never executed.',
  SHARDS_INVALID: 'An index of a model in several files is malformed, or its files are missing or others.',
  TENSOR_MISSING: 'The file lacks a tensor that the model needs.',
  TENSOR_INVALID: 'A tensor has another shape or dtype than the model needs.',
  // paths
  COMFYUI_NOT_FOUND: 'No ComfyUI installation was found, or the folder named is none.',
  PATHS_CONFIG_INVALID: 'A configuration of model paths holds errors; ComfyUI would not start with it.',
  FOLDER_UNKNOWN: 'No model folder of this name is configured.',
  MODEL_NOT_FOUND: 'No configured folder holds a model of this name.',
  PATH_OUTSIDE_FOLDER: 'A name leads out of the folder it belongs to.',
  // image
  IMAGE_INVALID: 'The bytes are no image that can be decoded.',
  IMAGE_TOO_LARGE: 'The image has more pixels or bytes than the limit.',
  // vision
  VISION_FAMILY_UNKNOWN: 'No vision family matches the header of this file.',
  OUTPUT_UNAVAILABLE: 'The model cannot give this output, because of its family or because weights are absent.',
  QUANTIZATION_REFUSED:
    'int8 would differ too much from exact arithmetic for this model; the figures are in the message.',
  // adapter
  ADAPTER_UNKNOWN: 'The file is no IP-Adapter that Vision Bridge knows.',
  PAIR_MISMATCH: 'An IP-Adapter and the encoder, features or embeds given with it do not belong together.',
  EMBEDS_INVALID: 'The file holds no IP-Adapter embeds.',
  // faces
  FACE_NOT_FOUND: 'No face was found in a picture that needs one, or fewer than were asked for.',
  // upstream
  UPSTREAM_UNAVAILABLE: 'The running ComfyUI does not answer, or its folders are not on this machine.',
  // runtime
  RUNTIME_UNAVAILABLE: 'The inference process ended or cannot be started.',
  RUNTIME_FAILED: 'onnxruntime refused the graph or failed while running it.',
  DEVICE_UNAVAILABLE: 'The device asked for is not to be had in this build or on this machine.',
  MEMORY_BUDGET_EXCEEDED: 'The model alone needs more memory than --memory-budget allows.',
  BUSY: 'Too much work is waiting. The same request will succeed later.',
  // server
  BODY_TOO_LARGE: 'The request body, or a form in it, is larger than --max-upload-size.',
  PORT_IN_USE: 'Another program listens on this address.',
  NOT_FOUND: 'No such route, prompt or file.',
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface BridgeErrorOptions {
  /** Facts for programs, JSON-serializable: paths, names, limits. Never secrets, never tensor data. */
  readonly details?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/** Base of all expected failures. */
export class BridgeError extends Error {
  readonly code: ErrorCode;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: BridgeErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.details = options.details ?? {};
  }
}

/** The request is wrong; sending it again unchanged cannot help. */
export class InvalidRequestError extends BridgeError {
  constructor(message: string, options?: BridgeErrorOptions) {
    super('INVALID_REQUEST', message, options);
  }
}

/** A model file is not what it should be. */
export class ModelFormatError extends BridgeError {}

/** A model name leads to no file. */
export class ModelNotFoundError extends BridgeError {
  constructor(message: string, options?: BridgeErrorOptions) {
    super('MODEL_NOT_FOUND', message, options);
  }
}

/** The inference process cannot serve; the request may succeed when sent again. */
export class RuntimeUnavailableError extends BridgeError {
  constructor(message: string, options?: BridgeErrorOptions) {
    super('RUNTIME_UNAVAILABLE', message, options);
  }
}

/** Text of anything thrown, for messages and logs. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The system's code of a Node error (`ENOENT`, `EADDRINUSE`), if it has one. */
export function systemCodeOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}
