/**
 * Threads that read files whole: hashing, checking values, reading what lies beside models.
 *
 * Few at once, because a disk is what they wait for. A caller that gives up costs the thread its life, so that a read that
 * hangs keeps nobody waiting. Work of low priority has a thread of its own, and can be held.
 */
import { Worker } from 'node:worker_threads';
import { cancelledError, throwIfAborted } from '../../common/abort.js';
import { BridgeError } from '../../common/errors.js';
import { threadLoaderArguments } from '../../common/typescript-loader.js';
import type { FileAnswer, FileRequest, FileTaskName, FileTasks } from './thread.js';

export interface FileWorkOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((doneBytes: number) => void) | undefined;
  /** Slowly, and only while it is not held. */
  readonly isLow?: boolean;
}

interface Thread {
  readonly worker: Worker;
  readonly isLow: boolean;
  idleTimer: NodeJS.Timeout | undefined;
  job: Job | undefined;
}

interface Job {
  readonly request: Extract<FileRequest, { type: 'start' }>;
  readonly onProgress: ((doneBytes: number) => void) | undefined;
  readonly resolve: (output: unknown) => void;
  readonly reject: (error: Error) => void;
}

const MAX_THREADS = 2;
const IDLE_MS = 5000;
/** A thread whose read hangs is not waited for longer. */
const END_MS = 1000;

export class FileWorkers implements AsyncDisposable {
  readonly #entry: URL;
  readonly #threads = new Set<Thread>();
  readonly #waiting: Job[] = [];
  #isHeld = false;
  #isDisposed = false;

  /** @param entry A file of workers/. */
  constructor(entry: URL) {
    this.#entry = entry;
  }

  /** Work that others wait for, running or waiting. */
  get isBusy(): boolean {
    return this.#waiting.some(({ request }) => !request.isLow) || this.#count(false) > 0;
  }

  /**
   * Does a piece of work in a thread.
   *
   * @throws {BridgeError} what the work threw; `CANCELLED` when the signal fired or the threads were ended.
   */
  async run<Name extends FileTaskName>(
    task: Name,
    input: FileTasks[Name]['input'],
    { signal, onProgress, isLow = false }: FileWorkOptions = {},
  ): Promise<FileTasks[Name]['output']> {
    throwIfAborted(signal);
    if (this.#isDisposed) throw new BridgeError('CANCELLED', 'Vision Bridge is shutting down.');
    return new Promise((resolve, reject) => {
      const job: Job = {
        request: { type: 'start', task, input, isLow },
        onProgress,
        resolve: (output) => {
          signal?.removeEventListener('abort', give);
          resolve(output as FileTasks[Name]['output']);
        },
        reject: (error) => {
          signal?.removeEventListener('abort', give);
          reject(error);
        },
      };
      const give = (): void => {
        this.#giveUp(job, cancelledError(signal?.reason));
      };
      signal?.addEventListener('abort', give, { once: true });
      this.#waiting.push(job);
      this.#dispatch();
    });
  }

  /** Stops work of low priority where it is, or lets it go on. */
  hold(isHeld: boolean): void {
    if (this.#isHeld === isHeld) return;
    this.#isHeld = isHeld;
    for (const { worker, isLow } of this.#threads)
      if (isLow) worker.postMessage({ type: 'hold', isHeld } satisfies FileRequest);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isDisposed = true;
    const threads = [...this.#threads];
    this.#threads.clear();
    const error = new BridgeError('CANCELLED', 'Vision Bridge is shutting down.');
    for (const job of [...this.#waiting.splice(0), ...threads.flatMap(({ job }) => job ?? [])]) job.reject(error);
    await Promise.all(threads.map(endThread));
  }

  #count(isLow: boolean): number {
    return [...this.#threads].filter((thread) => thread.isLow === isLow && thread.job !== undefined).length;
  }

  #dispatch(): void {
    for (const isLow of [false, true]) {
      while (!this.#isDisposed && this.#count(isLow) < (isLow ? 1 : MAX_THREADS)) {
        const at = this.#waiting.findIndex(({ request }) => request.isLow === isLow);
        if (at === -1) break;
        const [job] = this.#waiting.splice(at, 1);
        const idle = [...this.#threads].find((thread) => thread.isLow === isLow && thread.job === undefined);
        if (job !== undefined) this.#give(idle ?? this.#start(isLow), job);
      }
    }
  }

  #give(thread: Thread, job: Job): void {
    clearTimeout(thread.idleTimer);
    thread.job = job;
    thread.worker.ref();
    thread.worker.postMessage(job.request);
  }

  #start(isLow: boolean): Thread {
    const worker = new Worker(this.#entry, { execArgv: threadLoaderArguments(this.#entry) });
    const thread: Thread = { worker, isLow, idleTimer: undefined, job: undefined };
    this.#threads.add(thread);
    if (isLow && this.#isHeld) worker.postMessage({ type: 'hold', isHeld: true } satisfies FileRequest);
    worker.on('message', (answer: FileAnswer) => {
      const { job } = thread;
      if (job === undefined) return;
      if (answer.type === 'progress') {
        job.onProgress?.(answer.doneBytes);
        return;
      }
      thread.job = undefined;
      worker.unref();
      thread.idleTimer = setTimeout(() => {
        this.#leave(thread);
      }, IDLE_MS).unref();
      if (answer.type === 'done') job.resolve(answer.output);
      else job.reject(new BridgeError(answer.code, answer.message, { details: { ...answer.details } }));
      this.#dispatch();
    });
    worker.on('error', (error) => {
      this.#leave(thread, new BridgeError('MODEL_UNREADABLE', `The thread that read it ended: ${error.message}`));
    });
    worker.on('exit', () => {
      this.#leave(thread, new BridgeError('MODEL_UNREADABLE', 'The thread that read it ended.'));
    });
    return thread;
  }

  #giveUp(job: Job, error: BridgeError): void {
    const at = this.#waiting.indexOf(job);
    if (at !== -1) this.#waiting.splice(at, 1);
    const thread = [...this.#threads].find((candidate) => candidate.job === job);
    if (thread === undefined) job.reject(error);
    else this.#leave(thread, error);
  }

  #leave(thread: Thread, error?: BridgeError): void {
    if (!this.#threads.delete(thread)) return;
    clearTimeout(thread.idleTimer);
    if (error !== undefined) thread.job?.reject(error);
    void endThread(thread);
    this.#dispatch();
  }
}

async function endThread({ worker, idleTimer }: Thread): Promise<void> {
  clearTimeout(idleTimer);
  worker.ref(); // until it has ended: see ScanThreads
  let timer: NodeJS.Timeout | undefined;
  const given = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, END_MS);
  });
  await Promise.race([worker.terminate(), given]);
  clearTimeout(timer);
}
