/** What parent and inference process say to each other. Values cross by structured clone: typed arrays stay typed. */
import { BridgeError, ERROR_CODES, type ErrorCode } from '../common/errors.js';

export type ToChild =
  | { readonly type: 'call'; readonly id: number; readonly operation: string; readonly payload: unknown }
  | { readonly type: 'cancel'; readonly id: number }
  /** The result's arrays were taken out of the shared file. */
  | { readonly type: 'taken'; readonly id: number };

export interface WireError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly details: Readonly<Record<string, unknown>>;
}

export type ToParent =
  | { readonly type: 'ready' }
  | { readonly type: 'progress'; readonly id: number; readonly progress: Progress }
  | { readonly type: 'result'; readonly id: number; readonly value: unknown }
  | { readonly type: 'error'; readonly id: number; readonly error: WireError };

/**
 * `loading`: weights are read into a session, which takes seconds; `quantizing`: steps done of all, before the first use of
 * int8; `fallback`: `auto` found no device but the CPU; `running`: images done of all, and
 * milliseconds that the model itself took for them.
 */
export type Progress =
  | { readonly stage: 'loading'; readonly model: string }
  | { readonly stage: 'quantizing'; readonly done: number; readonly total: number }
  | { readonly stage: 'fallback'; readonly reason: string }
  | { readonly stage: 'running'; readonly done: number; readonly total: number; readonly runMs?: number };

export function toWireError(error: unknown): WireError {
  if (error instanceof BridgeError) return { code: error.code, message: error.message, details: error.details };
  return {
    code: 'INTERNAL',
    message: error instanceof Error ? (error.stack ?? error.message) : String(error),
    details: {},
  };
}

export function fromWireError({ code, message, details }: WireError): BridgeError {
  return new BridgeError(Object.hasOwn(ERROR_CODES, code) ? code : 'INTERNAL', message, { details });
}
