/**
 * What a thread does that reads files whole, or many headers together: one piece of work at a time.
 *
 * Work of low priority waits after each chunk for as long as the chunk took, and stops altogether while it is told to.
 */
import { statSync } from 'node:fs';
import { setPriority } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { parentPort } from 'node:worker_threads';
import { BridgeError, messageOf, type ErrorCode } from '../../common/errors.js';
import { hashModel, type ModelHashes } from '../hashes.js';
import { joinShards, type JoinedShards } from '../shards.js';
import { rowKey } from '../row.js';
import { checkValues, type ValueCheck } from '../values.js';
import type { ModelFormat } from '../read-model.js';

/** What can be asked for, and what comes back. */
export interface FileTasks {
  readonly hash: {
    readonly input: { readonly path: string; readonly dataStart?: number | undefined };
    readonly output: Kept<ModelHashes>;
  };
  readonly checkValues: {
    readonly input: { readonly path: string; readonly format: ModelFormat };
    readonly output: Kept<ValueCheck>;
  };
  readonly joinShards: { readonly input: { readonly paths: readonly string[] }; readonly output: JoinedShards };
}

/** A result, and the state of the file that it is of. */
interface Kept<T> {
  readonly value: T;
  readonly key: string;
}

export type FileTaskName = keyof FileTasks;

export type FileRequest =
  | { readonly type: 'start'; readonly task: FileTaskName; readonly input: unknown; readonly isLow: boolean }
  | { readonly type: 'hold'; readonly isHeld: boolean };

export type FileAnswer =
  | { readonly type: 'progress'; readonly doneBytes: number }
  | { readonly type: 'done'; readonly output: unknown }
  | { readonly type: 'failed'; readonly code: ErrorCode; readonly message: string; readonly details: object };

const LOWEST_PRIORITY = 19;
const HOLD_CHECK_MS = 100;
const PROGRESS_MS = 100;

/** Answers requests until the thread is ended. */
export function serveFileWork(): void {
  let isHeld = false;
  const tell = (answer: FileAnswer): void => parentPort?.postMessage(answer);
  const work = async ({ task, input, isLow }: Extract<FileRequest, { type: 'start' }>): Promise<void> => {
    if (isLow) lowerPriority();
    let last = performance.now();
    let told = 0;
    const onChunk = async (doneBytes: number): Promise<void> => {
      const now = performance.now();
      if (now - told > PROGRESS_MS) {
        told = now;
        tell({ type: 'progress', doneBytes });
      }
      if (!isLow) return;
      await sleep(now - last);
      while (isHeld) await sleep(HOLD_CHECK_MS);
      last = performance.now();
    };
    try {
      tell({ type: 'done', output: await TASKS[task](input as never, onChunk) });
    } catch (error) {
      const { code, details } =
        error instanceof BridgeError ? error : { code: 'MODEL_UNREADABLE' as const, details: {} };
      tell({ type: 'failed', code, message: messageOf(error), details });
    }
  };
  parentPort?.on('message', (request: FileRequest) => {
    if (request.type === 'hold') isHeld = request.isHeld;
    else void work(request);
  });
}

/** Of this thread alone, which only Linux can do: elsewhere the whole process would be meant. */
function lowerPriority(): void {
  if (process.platform !== 'linux') return;
  try {
    setPriority(LOWEST_PRIORITY);
  } catch {
    // Not allowed here: the pauses between chunks remain.
  }
}

type OnChunk = (doneBytes: number) => Promise<void>;

const TASKS: {
  readonly [Name in FileTaskName]: (
    input: FileTasks[Name]['input'],
    onChunk: OnChunk,
  ) => FileTasks[Name]['output'] | Promise<FileTasks[Name]['output']>;
} = {
  hash: ({ path, dataStart }, onChunk) => ofOneState(path, () => hashModel(path, { dataStart, onChunk })),
  checkValues: ({ path, format }, onChunk) => ofOneState(path, () => checkValues(path, format, onChunk)),
  joinShards: ({ paths }) => joinShards(paths),
};

/** @throws {BridgeError} `MODEL_UNREADABLE` when the file was written to meanwhile: the result is of no state of it. */
async function ofOneState<T>(path: string, read: () => Promise<T>): Promise<Kept<T>> {
  const stateOf = (): string => {
    const { dev, ino, size, mtimeMs } = statSync(path);
    return rowKey({ device: dev, inode: ino, sizeBytes: size, modifiedMs: mtimeMs });
  };
  const key = stateOf();
  const value = await read();
  if (stateOf() === key) return { value, key };
  throw new BridgeError('MODEL_UNREADABLE', `${path} changed while it was read.`, { details: { path } });
}
