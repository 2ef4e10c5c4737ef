/**
 * Threads for walking and reading. Each has one request at a time.
 *
 * Folders differ: a network folder may take seconds per file, or never answer. A thread that is held up by one does not
 * count, so that another serves the rest meanwhile; one that shows no sign of life is left behind, because a system call
 * that hangs cannot be ended.
 */
import { Worker } from 'node:worker_threads';
import { BridgeError } from '../../common/errors.js';
import { threadLoaderArguments } from '../../common/typescript-loader.js';
import type { ScanAnswer, ScanRequest } from './thread.js';
import type { WalkedFiles } from './walk.js';

/** A request without its number. */
export type ScanWork = ScanRequest extends infer R ? (R extends { id: number } ? Omit<R, 'id'> : never) : never;

interface Job {
  readonly work: ScanWork;
  /** The root that it is about. */
  readonly group: string;
  readonly resolve: (answer: ScanAnswer) => void;
  readonly reject: (error: Error) => void;
  readonly onFound: ((files: WalkedFiles) => void) | undefined;
}

interface Thread {
  readonly worker: Worker;
  /** It has loaded its program: before that it is nobody's folder that is slow. */
  isLoaded: boolean;
  job: Job | undefined;
  isHeldUp: boolean;
  heldUpTimer: NodeJS.Timeout | undefined;
  deadTimer: NodeJS.Timeout | undefined;
}

export interface ScanThreadsOptions {
  /** A file of workers/. */
  readonly entry: URL;
  readonly count: number;
  /** A thread without a sign of life for so long is left behind. */
  readonly silenceMs: number;
}

/** Headers are short-lived: a small nursery keeps threads small. A header of 100 MB still has to fit. */
const LIMITS = { maxYoungGenerationSizeMb: 8, maxOldGenerationSizeMb: 1024 };
/** A request that takes longer than this holds its thread up. */
const HELD_UP_MS = 1000;
/** Threads that are held up at once; folders beyond that wait for one another. */
const MAX_HELD_UP = 4;

export class ScanThreads implements AsyncDisposable {
  readonly #options: ScanThreadsOptions;
  readonly #threads: Thread[] = [];
  readonly #waiting: Job[] = [];
  #nextId = 1;
  #isDisposed = false;

  /** Starts the first thread; others start when there is work for them, which is not so where nothing has changed. */
  constructor(options: ScanThreadsOptions) {
    this.#options = options;
    this.#start();
  }

  /**
   * @param onFound Told of files while a walk goes on.
   * @throws {BridgeError} `MODEL_UNREADABLE` when there is no answer; `CANCELLED` when the threads are ended.
   */
  run(group: string, work: ScanWork, onFound?: (files: WalkedFiles) => void): Promise<ScanAnswer> {
    return new Promise((resolve, reject) => {
      if (this.#isDisposed) {
        reject(new BridgeError('CANCELLED', 'The scan was ended.'));
        return;
      }
      this.#waiting.push({ work, group, resolve, reject, onFound });
      this.#dispatch();
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isDisposed = true;
    const threads = this.#threads.splice(0);
    for (const job of [...this.#waiting.splice(0), ...threads.flatMap((thread) => thread.job ?? [])])
      job.reject(new BridgeError('CANCELLED', 'The scan was ended.'));
    await Promise.all(
      threads.map(async (thread) => {
        stopTimers(thread);
        const ended = thread.worker.terminate();
        if (!thread.isHeldUp) await ended;
      }),
    );
  }

  #dispatch(): void {
    if (this.#isDisposed) return;
    while (this.#waiting.length > 0) {
      const thread = this.#threads.find(({ job }) => job === undefined) ?? this.#startIfAllowed();
      if (thread === undefined) return;
      const heldUp = new Set(
        this.#threads.flatMap(({ isHeldUp, job }) => (isHeldUp && job !== undefined ? job.group : [])),
      );
      // A folder that holds a thread up gets another one only when nobody else waits.
      const at = Math.max(
        0,
        this.#waiting.findIndex(({ group }) => !heldUp.has(group)),
      );
      const [job] = this.#waiting.splice(at, 1);
      if (job !== undefined) this.#give(thread, job);
    }
  }

  #startIfAllowed(): Thread | undefined {
    const heldUp = Math.min(this.#threads.filter(({ isHeldUp }) => isHeldUp).length, MAX_HELD_UP);
    return this.#threads.length - heldUp < this.#options.count ? this.#start() : undefined;
  }

  #give(thread: Thread, job: Job): void {
    thread.job = job;
    if (thread.isLoaded) this.#awaitAnswer(thread);
    this.#awaitSign(thread);
    thread.worker.postMessage({ ...job.work, id: this.#nextId });
    this.#nextId += 1;
  }

  #awaitAnswer(thread: Thread): void {
    clearTimeout(thread.heldUpTimer);
    thread.heldUpTimer = setTimeout(() => {
      thread.isHeldUp = true;
      this.#dispatch();
    }, HELD_UP_MS);
  }

  #awaitSign(thread: Thread): void {
    clearTimeout(thread.deadTimer);
    const { silenceMs } = this.#options;
    thread.deadTimer = setTimeout(() => {
      this.#leave(thread, `it does not answer (${silenceMs / 1000} s)`);
    }, silenceMs);
  }

  #start(): Thread {
    const { entry } = this.#options;
    const worker = new Worker(entry, { execArgv: threadLoaderArguments(entry), resourceLimits: LIMITS });
    const thread: Thread = {
      worker,
      isLoaded: false,
      job: undefined,
      isHeldUp: false,
      heldUpTimer: undefined,
      deadTimer: undefined,
    };
    worker.on('message', (answer: ScanAnswer) => {
      if (answer.type === 'loaded') {
        thread.isLoaded = true;
        if (thread.job !== undefined) this.#awaitAnswer(thread);
        return;
      }
      if (answer.type === 'alive' || answer.type === 'found') {
        if (!this.#threads.includes(thread)) return;
        this.#awaitSign(thread);
        if (answer.type === 'found') thread.job?.onFound?.(answer.files);
        return;
      }
      stopTimers(thread);
      const { job } = thread;
      thread.job = undefined;
      thread.isHeldUp = false;
      if (answer.type === 'failed') job?.reject(new BridgeError('MODEL_UNREADABLE', answer.message));
      else job?.resolve(answer);
      this.#dispatch();
    });
    worker.on('error', (error) => {
      this.#leave(thread, error.message);
    });
    worker.on('exit', () => {
      this.#leave(thread, 'the thread that read it ended');
    });
    this.#threads.push(thread);
    return thread;
  }

  /**
   * Forgets a thread. Nobody waits for its end: it may come when the network folder answers, or never. It goes on to keep
   * the process alive, so that one that would end notices: Node waits for its threads at the end without saying so.
   */
  #leave(thread: Thread, reason: string): void {
    const at = this.#threads.indexOf(thread);
    if (at === -1) return;
    this.#threads.splice(at, 1);
    stopTimers(thread);
    void thread.worker.terminate();
    thread.job?.reject(new BridgeError('MODEL_UNREADABLE', reason));
    this.#dispatch();
  }
}

function stopTimers(thread: Thread): void {
  clearTimeout(thread.heldUpTimer);
  clearTimeout(thread.deadTimer);
}
