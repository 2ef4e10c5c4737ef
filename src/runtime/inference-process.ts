/**
 * The inference process, as its parent sees it.
 *
 * A run of onnxruntime-node blocks the thread that calls it, ending a worker thread during a run aborts the whole
 * server, and memory that a session released does not come back inside a process. So models live in a forked child: it
 * may block, it can be killed, and ending it gives all memory back. The child starts with the first call and ends after
 * an idle time; if it dies, the calls in flight are answered with RUNTIME_UNAVAILABLE and the next call starts a new one.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { cancelledError, throwIfAborted } from '../common/abort.js';
import { readEnvironment } from '../common/environment.js';
import { BridgeError, messageOf, RuntimeUnavailableError } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import { withAllocatorSettings } from './allocator.js';
import type { BufferLease } from './buffer-pool.js';
import { fromWireError, type Progress, type ToChild, type ToParent } from './messages.js';
import { loaderArguments } from '../common/typescript-loader.js';
import { createSharedFiles, SHARED_FILES_ARGUMENT, type SharedFiles } from './shared-files.js';

export interface InferenceProcessOptions {
  /** The child's entry, a file of workers/. */
  readonly entry: URL;
  /** The child ends after this time without a call. */
  readonly idleReleaseMs: number;
  /** Calls that may wait or run at once; more are refused with BUSY. */
  readonly maxPendingCalls: number;
  readonly logger: Logger;
}

interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** Large arrays of the answer lie in its memory. */
  readonly lease?: BufferLease | undefined;
}

interface InferenceState {
  /** Process id while there is a child. */
  readonly pid: number | undefined;
  readonly pendingCalls: number;
  /** Children that ended without being asked to. */
  readonly crashes: number;
}

interface PendingCall {
  /** Nobody waits for it. */
  readonly isHint?: true;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly onProgress: CallOptions['onProgress'];
  readonly lease?: BufferLease | undefined;
}

/** A child that is asked to end may finish the run it is in; after this it is killed. */
const END_GRACE_MS = 2000;

export class InferenceProcess implements AsyncDisposable {
  readonly #options: InferenceProcessOptions;
  readonly #pending = new Map<number, PendingCall>();
  #child: ChildProcess | undefined;
  /** For large values to and from the child. */
  #shared: SharedFiles | undefined;
  #idleTimer: NodeJS.Timeout | undefined;
  #nextId = 1;
  #crashes = 0;
  #isDisposed = false;

  constructor(options: InferenceProcessOptions) {
    this.#options = options;
  }

  get state(): InferenceState {
    return { pid: this.#child?.pid, pendingCalls: this.#callCount(), crashes: this.#crashes };
  }

  /**
   * Runs an operation in the child.
   *
   * @param payload Copied to the child; typed arrays keep their type.
   * @param options.signal Rejects at once with CANCELLED; the child stops before its next unit of work.
   * @throws {BridgeError} what the operation threw; BUSY; RUNTIME_UNAVAILABLE when the child died.
   */
  async call(operation: string, payload: unknown, { signal, onProgress, lease }: CallOptions = {}): Promise<unknown> {
    throwIfAborted(signal);
    if (this.#isDisposed) throw new RuntimeUnavailableError('The inference process was shut down.');
    const pending = this.#callCount();
    if (pending >= this.#options.maxPendingCalls) {
      throw new BridgeError('BUSY', `${pending} encodes are waiting already; send this one again later.`, {
        details: { pending },
      });
    }
    const { child, id } = this.#nextCall();
    const onAbort = (): void => {
      this.#send(child, { type: 'cancel', id });
      this.#settle(id)?.reject(cancelledError(signal?.reason));
    };
    try {
      return await new Promise<unknown>((resolve, reject) => {
        this.#pending.set(id, { resolve, reject, onProgress, lease });
        signal?.addEventListener('abort', onAbort, { once: true });
        const placed = this.#shared === undefined ? payload : this.#shared.place(id, payload);
        this.#send(child, { type: 'call', id, operation, payload: placed });
      });
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /**
   * Starts the child, where there is none, with an operation that a call soon to come will need. What becomes of it is that
   * call's to find out.
   */
  prepare(operation: string, payload: unknown, onProgress?: (progress: Progress) => void): void {
    if (this.#child !== undefined || this.#isDisposed) return;
    const { child, id } = this.#nextCall();
    const ignore = (): void => undefined;
    this.#pending.set(id, { resolve: ignore, reject: ignore, onProgress, isHint: true });
    this.#send(child, { type: 'call', id, operation, payload });
  }

  /** Calls that somebody waits for. */
  #callCount(): number {
    return [...this.#pending.values()].filter(({ isHint }) => isHint !== true).length;
  }

  #nextCall(): { child: ChildProcess; id: number } {
    clearTimeout(this.#idleTimer);
    const id = this.#nextId;
    this.#nextId += 1;
    const child = this.#child ?? this.#start();
    child.ref();
    child.channel?.ref();
    return { child, id };
  }

  /** Ends the child, whatever it does; calls in flight are answered. The next call starts a new one. */
  async end(): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    this.#abandon(child, 'it was ended');
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = new Promise<void>((resolve) =>
      child.once('exit', () => {
        resolve();
      }),
    );
    // Without a channel the child ends by itself once its run is over.
    if (child.connected) child.disconnect();
    const timer = setTimeout(() => child.kill('SIGKILL'), END_GRACE_MS);
    await exited;
    clearTimeout(timer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isDisposed = true;
    clearTimeout(this.#idleTimer);
    await this.end();
  }

  #start(): ChildProcess {
    const { entry, logger } = this.#options;
    const shared = createSharedFiles();
    const child = fork(entry, shared === undefined ? [] : [SHARED_FILES_ARGUMENT], {
      serialization: 'advanced',
      execArgv: loaderArguments(entry),
      env: withAllocatorSettings(readEnvironment()),
      stdio: ['inherit', 'inherit', 'inherit', 'ipc', ...(shared?.inherited ?? [])],
    });
    this.#child = child;
    this.#shared = shared?.files;
    child.on('close', () => shared?.close());
    child.on('message', (message) => {
      this.#receive(child, message as ToParent);
    });
    child.on('error', (error) => {
      logger.error({ err: error }, 'the inference process failed');
      // A child that was never made has no exit to wait for.
      if (child.pid === undefined) this.#abandon(child, `it could not be started (${messageOf(error)}).`);
    });
    child.on('exit', (code, signal) => {
      if (this.#child !== child) return; // it was told to end
      this.#crashes += 1;
      const how = signal === null ? `exit code ${code ?? 'unknown'}` : `signal ${signal}`;
      logger.error({ pid: child.pid, code, signal }, 'the inference process ended unexpectedly');
      const hint = signal === 'SIGKILL' ? ' Did the system run out of memory?' : '';
      this.#abandon(child, `it ended with ${how}.${hint}`);
    });
    logger.info({ pid: child.pid }, 'inference process started');
    return child;
  }

  #send(child: ChildProcess, message: ToChild): void {
    if (!child.connected) return; // its exit event answers the call
    child.send(message, (error) => {
      if (error !== null && message.type === 'call') {
        this.#shared?.free(message.id);
        this.#settle(message.id)?.reject(
          new RuntimeUnavailableError('The inference process does not take requests; send this one again.', {
            cause: error,
          }),
        );
      }
    });
  }

  #receive(child: ChildProcess, message: ToParent): void {
    // Calls of a child that was given up were answered then.
    if (child !== this.#child) return;
    if (message.type === 'result' || message.type === 'error') this.#shared?.free(message.id);
    switch (message.type) {
      case 'ready':
        break;
      case 'progress':
        this.#pending.get(message.id)?.onProgress?.(message.progress);
        break;
      case 'result':
        this.#answer(child, message);
        break;
      case 'error':
        this.#settle(message.id)?.reject(fromWireError(message.error));
        break;
    }
  }

  #answer(child: ChildProcess, { id, value }: ToParent & { type: 'result' }): void {
    const call = this.#settle(id);
    const shared = this.#shared;
    if (shared === undefined) {
      call?.resolve(value);
      return;
    }
    const { lease } = call ?? {};
    const allocate = lease === undefined ? undefined : (sizeBytes: number): ArrayBuffer => lease.take(sizeBytes);
    try {
      call?.resolve(shared.take(value, allocate));
    } catch (error) {
      call?.reject(new RuntimeUnavailableError('The result could not be read back.', { cause: error }));
    }
    this.#send(child, { type: 'taken', id });
  }

  #settle(id: number): PendingCall | undefined {
    const call = this.#pending.get(id);
    this.#pending.delete(id);
    if (this.#pending.size === 0 && call !== undefined) this.#startIdleTimer();
    return call;
  }

  #startIdleTimer(): void {
    clearTimeout(this.#idleTimer);
    this.#idleTimer = setTimeout(() => {
      this.#options.logger.info({ pid: this.#child?.pid }, 'inference process released after idle time');
      void this.end();
    }, this.#options.idleReleaseMs);
    this.#idleTimer.unref();
    // A program that waits for nothing more may end, and the child with it.
    this.#child?.unref();
    this.#child?.channel?.unref();
  }

  /** Forgets a child and answers all its calls. */
  #abandon(child: ChildProcess, reason: string): void {
    if (this.#child === child) this.#child = undefined;
    clearTimeout(this.#idleTimer);
    for (const call of this.#pending.values()) {
      call.reject(
        new RuntimeUnavailableError(`The inference process is gone: ${reason} A new one starts with the next request.`),
      );
    }
    this.#pending.clear();
  }
}
