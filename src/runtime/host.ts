/**
 * The inference process, seen from inside: answers calls one after the other.
 *
 * Operations are handed in; this file knows how calls are ordered, cancelled and answered. A run blocks this process, so
 * messages are looked at between units of work: operations call `context.checkpoint()` there.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { throwIfAborted } from '../common/abort.js';
import { BridgeError } from '../common/errors.js';
import { toWireError, type Progress, type ToChild, type ToParent } from './messages.js';

export interface OperationContext {
  /** Lets messages in, and throws CANCELLED when the call was given up. */
  checkpoint(): Promise<void>;
  report(progress: Progress): void;
}

export type Operation = (payload: unknown, context: OperationContext) => Promise<unknown>;

/** Serves operations to the parent until it disconnects. Called once, by the entry in workers/. */
export function serveOperations(operations: Readonly<Record<string, Operation>>): void {
  const cancellations = new Map<number, AbortController>();
  let tail = Promise.resolve();
  const send = (message: ToParent): void => {
    if (process.connected) process.send?.(message);
  };

  const run = async (message: ToChild & { type: 'call' }, signal: AbortSignal): Promise<void> => {
    try {
      throwIfAborted(signal);
      const operation = Object.hasOwn(operations, message.operation) ? operations[message.operation] : undefined;
      if (operation === undefined) throw new BridgeError('INTERNAL', `no operation ${message.operation}`);
      const value = await operation(message.payload, {
        async checkpoint() {
          await nextTurn();
          throwIfAborted(signal);
        },
        report: (progress) => {
          send({ type: 'progress', id: message.id, progress });
        },
      });
      send({ type: 'result', id: message.id, value });
    } catch (error) {
      send({ type: 'error', id: message.id, error: toWireError(error) });
    } finally {
      cancellations.delete(message.id);
    }
  };

  process.on('message', (received) => {
    const message = received as ToChild;
    if (message.type === 'cancel') {
      cancellations.get(message.id)?.abort();
      return;
    }
    const controller = new AbortController();
    cancellations.set(message.id, controller);
    tail = tail.then(() => run(message, controller.signal));
  });
  // The parent is gone, or wants this process gone: nothing here is worth keeping.
  process.on('disconnect', () => process.exit(0));
  // Ctrl-C reaches the whole process group; the parent decides when this process ends.
  process.on('SIGINT', () => undefined);
  send({ type: 'ready' });
}
