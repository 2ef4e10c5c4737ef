/**
 * Threads for work that would hold up the server's own: resampling pictures, hashing files.
 *
 * Tasks are functions that the entry hands to `serveTasks`. Threads start with the first task and end after an
 * idle time. No task may use onnxruntime: ending a thread during one of its runs aborts the whole process.
 */
import { availableParallelism } from 'node:os';
import type { Piscina } from 'piscina';
import { cancelledError, throwIfAborted } from '../common/abort.js';
import { BridgeError, messageOf } from '../common/errors.js';
import { fromWireError, toWireError, type WireError } from './messages.js';
import { threadLoaderArguments } from '../common/typescript-loader.js';

const MAX_THREADS = 4;
const IDLE_MS = 10_000;

type Answer<T> = { readonly value: T } | { readonly error: WireError };

interface TaskCall {
  readonly task: string;
  readonly input: unknown;
}

/** What a thread does; the default export of its entry. Errors cross with their code. */
export function serveTasks(
  tasks: Readonly<Record<string, (input: never) => unknown>>,
): (call: {
  readonly task: string;
  readonly input: unknown;
}) => Promise<{ readonly value: unknown } | { readonly error: object }> {
  return async ({ task, input }) => {
    try {
      const work = Object.hasOwn(tasks, task) ? tasks[task] : undefined;
      if (work === undefined) throw new BridgeError('INTERNAL', `no task ${task}`);
      // Both sides are this program.
      return { value: await work(input as never) };
    } catch (error) {
      return { error: toWireError(error) };
    }
  };
}

export class ThreadPool implements AsyncDisposable {
  readonly #entry: URL;
  #pool: Promise<Piscina> | undefined;
  /** Rejects when a thread could not even start. */
  #failure: Promise<never> | undefined;
  #isDisposed = false;

  /** @param entry A file of workers/ that serves tasks. */
  constructor(entry: URL) {
    this.#entry = entry;
  }

  /**
   * Runs a task of the entry.
   *
   * @param input Copied to the thread, which takes time here: what is large and not needed here any more is named in `moved`.
   * @param options.moved Memory that the thread takes over; the caller's views of it become empty.
   * @param options.signal Gives up at once; a thread that is at it is ended.
   * @throws {BridgeError} what the task threw; `CANCELLED`.
   */
  async run<O>(
    task: string,
    input: unknown,
    { signal, moved = [] }: { signal?: AbortSignal | undefined; moved?: readonly ArrayBuffer[] } = {},
  ): Promise<O> {
    throwIfAborted(signal);
    if (this.#isDisposed) throw new BridgeError('CANCELLED', 'Vision Bridge is shutting down.');
    const pool = await (this.#pool ??= this.#start());
    let answer: Answer<O>;
    try {
      const call: TaskCall = { task, input };
      const options = { transferList: [...moved], ...(signal === undefined ? {} : { signal }) };
      const work = pool.run(call, options);
      answer = (await Promise.race([work, ...(this.#failure === undefined ? [] : [this.#failure])])) as Answer<O>;
    } catch (error) {
      throwIfAborted(signal);
      if (this.#hasEnded()) throw cancelledError(error);
      throw error;
    }
    if ('error' in answer) throw fromWireError(answer.error);
    return answer.value;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isDisposed = true;
    const pool = await this.#pool;
    this.#pool = undefined;
    await pool?.destroy();
  }

  // A method, for the state may change while something is awaited.
  #hasEnded(): boolean {
    return this.#isDisposed;
  }

  async #start(): Promise<Piscina> {
    const { Piscina } = await import('piscina');
    const pool = new Piscina({
      filename: this.#entry.href,
      minThreads: 0,
      maxThreads: Math.min(MAX_THREADS, availableParallelism()),
      idleTimeout: IDLE_MS,
      execArgv: threadLoaderArguments(this.#entry),
    });
    this.#failure = new Promise<never>((_resolve, reject) => {
      pool.on('error', (error: unknown) => {
        reject(new BridgeError('INTERNAL', `A thread ended: ${messageOf(error)}`, { cause: error }));
      });
    });
    this.#failure.catch(() => undefined);
    return pool;
  }
}
