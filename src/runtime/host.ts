/**
 * The inference process, seen from inside: answers calls in their order.
 *
 * Operations are handed in; this file knows how calls are ordered, gathered, cancelled and answered. A run blocks this
 * process, so messages are looked at between units of work: operations await `nextMessages()` there. Calls that wait
 * together and agree in their key are handed to their operation together; every one is answered on its own.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { cancelledError } from '../common/abort.js';
import { BridgeError } from '../common/errors.js';
import { inheritedSharedFiles } from './shared-files.js';
import { toWireError, type Progress, type ToChild, type ToParent } from './messages.js';

/** One call as its operation sees it. Settled once; what comes after that is ignored. */
export interface OperationCall {
  readonly payload: unknown;
  /** Aborted when the caller gave up; the call is answered then already. */
  readonly signal: AbortSignal;
  report(progress: Progress): void;
  resolve(value: unknown): void;
  reject(error: unknown): void;
}

export interface Operation {
  /** Calls of one key may be run together. */
  keyOf(payload: unknown): string;
  /** Works on calls of one key, the oldest first. What it throws is the answer to all that it has not settled. */
  run(calls: readonly OperationCall[]): Promise<void>;
  /** Work that nobody waits for and that makes later calls faster. Done while no call has come for a while. */
  tidy?(): Promise<void>;
}

/** Calls that are run together at most: it bounds what is held for them, and how long another model waits. */
const MAX_CALLS_OF_A_ROUND = 64;
/** So long after the last call, another one is not expected at once. */
const IDLE_MS = 500;

/** Lets messages in: new calls, and calls that are given up. */
export async function nextMessages(): Promise<void> {
  await nextTurn();
}

/** An operation that works on one call at a time. */
export function singleOperation(work: (call: OperationCall) => Promise<unknown>): Operation {
  let count = 0;
  return {
    keyOf() {
      count += 1;
      return String(count);
    },
    async run(calls) {
      for (const call of calls) call.resolve(await work(call));
    },
  };
}

interface Waiting {
  readonly operation: Operation;
  readonly key: string;
  readonly call: OperationCall & { readonly isSettled: boolean };
}

/** Serves operations to the parent until it disconnects. Called once, by the entry in workers/. */
export function serveOperations(operations: Readonly<Record<string, Operation>>): void {
  const cancellations = new Map<number, AbortController>();
  const waiting: Waiting[] = [];
  const shared = inheritedSharedFiles();
  let isRunning = false;
  let idleTimer: NodeJS.Timeout | undefined;
  const send = (message: ToParent): void => {
    // A parent that ends meanwhile is no failure of this process.
    if (process.connected) process.send?.(message, undefined, undefined, () => undefined);
  };

  const createCall = (id: number, payload: unknown): Waiting['call'] => {
    const controller = new AbortController();
    cancellations.set(id, controller);
    let isSettled = false;
    const settle = (message: ToParent): void => {
      if (isSettled) return;
      isSettled = true;
      cancellations.delete(id);
      send(message);
    };
    const { signal } = controller;
    const reject = (error: unknown): void => {
      settle({ type: 'error', id, error: toWireError(error) });
    };
    signal.addEventListener('abort', () => {
      reject(cancelledError());
    });
    return {
      payload,
      signal,
      get isSettled() {
        return isSettled;
      },
      report(progress) {
        if (!isSettled) send({ type: 'progress', id, progress });
      },
      resolve(value) {
        if (!isSettled) settle({ type: 'result', id, value: shared === undefined ? value : shared.place(id, value) });
      },
      reject,
    };
  };

  /** The oldest call, and those behind it that can be run with it. */
  const takeRound = (first: Waiting): Waiting[] => {
    const round: Waiting[] = [];
    for (let i = 0; i < waiting.length && round.length < MAX_CALLS_OF_A_ROUND;) {
      const candidate = waiting[i];
      if (candidate?.operation === first.operation && candidate.key === first.key) round.push(...waiting.splice(i, 1));
      else i += 1;
    }
    return round;
  };

  const runAll = async (): Promise<void> => {
    for (let first = waiting[0]; first !== undefined; first = waiting[0]) {
      // Calls that were sent together arrive as several messages.
      await nextMessages();
      const calls = takeRound(first).map(({ call }) => call);
      const open = calls.filter((call) => !call.isSettled);
      try {
        if (open.length > 0) await first.operation.run(open);
        for (const call of open) {
          if (!call.isSettled) call.reject(new BridgeError('INTERNAL', 'The operation left a call without an answer.'));
        }
      } catch (error) {
        for (const call of open) call.reject(error);
      }
    }
  };

  const enqueue = ({ id, operation: name, payload }: ToChild & { type: 'call' }): void => {
    const call = createCall(id, shared === undefined ? payload : shared.take(payload));
    const operation = Object.hasOwn(operations, name) ? operations[name] : undefined;
    if (operation === undefined) {
      call.reject(new BridgeError('INTERNAL', `no operation ${name}`));
      return;
    }
    waiting.push({ operation, key: operation.keyOf(call.payload), call });
    start();
  };

  const start = (): void => {
    if (isRunning) return;
    isRunning = true;
    clearTimeout(idleTimer);
    void runAll().finally(() => {
      isRunning = false;
      idleTimer = setTimeout(() => void tidyAll(), IDLE_MS);
    });
  };

  const tidyAll = async (): Promise<void> => {
    isRunning = true;
    for (const operation of Object.values(operations)) {
      if (waiting.length === 0) await operation.tidy?.();
    }
    isRunning = false;
    if (waiting.length > 0) start();
  };

  process.on('message', (received) => {
    const message = received as ToChild;
    if (message.type === 'cancel') cancellations.get(message.id)?.abort();
    else if (message.type === 'taken') shared?.free(message.id);
    else enqueue(message);
  });
  // The parent is gone, or wants this process gone: nothing here is worth keeping.
  process.on('disconnect', () => process.exit(0));
  // Ctrl-C reaches the whole process group; the parent decides when this process ends.
  process.on('SIGINT', () => undefined);
  send({ type: 'ready' });
}
