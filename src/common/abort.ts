/** Cancellation helpers around AbortSignal. */
import { BridgeError } from './errors.js';

/** The error that cancelled work rejects with. */
export function cancelledError(cause?: unknown): BridgeError {
  return new BridgeError('CANCELLED', 'The work was cancelled before it finished.', { cause });
}

/** Throws `CANCELLED` when the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw cancelledError(signal.reason);
}

/**
 * Waits for a promise, but no longer than the signal allows. The promise itself goes on: one caller's abort does not
 * cancel shared work.
 */
export async function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  throwIfAborted(signal);
  let onAbort: (() => void) | undefined;
  const aborted = new Promise<never>((_resolve, reject) => {
    onAbort = () => {
      reject(cancelledError(signal.reason));
    };
    signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    if (onAbort !== undefined) signal.removeEventListener('abort', onAbort);
  }
}
