/** What a thread of the scan does: walk a root, or read files. One request at a time, one answer each. */
import { parentPort } from 'node:worker_threads';
import { messageOf } from '../../common/errors.js';
import { ModelReader, type ModelReading } from '../read-model.js';
import { rowKey, rowOf, type ModelRow } from '../row.js';
import { walkModels, type WalkedFiles, type WalkEnd } from './walk.js';

export type ScanRequest =
  | { readonly id: number; readonly type: 'walk'; readonly root: string; readonly excluded: readonly string[] }
  | { readonly id: number; readonly type: 'read'; readonly paths: readonly string[] };

export interface ReadModel {
  /** Absent when the file could not be opened: then nothing is kept of it. */
  readonly key?: string;
  readonly row: ModelRow;
}

interface ReadAnswer {
  readonly id: number;
  readonly type: 'read';
  /** JSON of ReadModel[], for one text is copied between threads faster than many objects. */
  readonly models: string;
  /** JSON of each one's reading in UTF-8, one after the other, as it is kept. */
  readonly details: Uint8Array<ArrayBuffer>;
  /** Where each of them ends. */
  readonly ends: readonly number[];
}

export type ScanAnswer =
  /** The thread has its program, and begins with what it was sent. */
  | { readonly type: 'loaded' }
  /** The request is being worked on. */
  | { readonly id: number; readonly type: 'alive' }
  /** Files that a walk has come past since the last such message. */
  | { readonly id: number; readonly type: 'found'; readonly files: WalkedFiles }
  | { readonly id: number; readonly type: 'walked'; readonly end: WalkEnd }
  | ReadAnswer
  | { readonly id: number; readonly type: 'failed'; readonly message: string };

const SIGN_OF_LIFE_MS = 500;
/** Tags of a data set that are kept, the most frequent ones. */
const MAX_TAGS = 32;

/** Answers requests until the thread is ended. */
export function serveScan(): void {
  const reader = new ModelReader();
  parentPort?.on('message', (request: ScanRequest) => {
    void answer(reader, request).then((result) => {
      parentPort?.postMessage(result, result.type === 'read' ? [result.details.buffer] : []);
    });
  });
  parentPort?.postMessage({ type: 'loaded' } satisfies ScanAnswer);
}

async function answer(reader: ModelReader, request: ScanRequest): Promise<ScanAnswer> {
  const { id } = request;
  let told = performance.now();
  const alive = (): void => {
    const now = performance.now();
    if (now - told < SIGN_OF_LIFE_MS) return;
    told = now;
    parentPort?.postMessage({ id, type: 'alive' } satisfies ScanAnswer);
  };
  try {
    if (request.type === 'walk') {
      const onFiles = (files: WalkedFiles): void => {
        parentPort?.postMessage({ id, type: 'found', files } satisfies ScanAnswer, [
          files.numbers.buffer as ArrayBuffer,
        ]);
      };
      return { id, type: 'walked', end: walkModels(request.root, request.excluded, { onFiles, onFolder: alive }) };
    }
    const models: ReadModel[] = [];
    const details: string[] = [];
    for (const path of request.paths) {
      alive();
      const { stat, ...reading } = await reader.read(path, { isWalked: true });
      models.push({ ...(stat === undefined ? {} : { key: rowKey(stat) }), row: rowOf(reading) });
      details.push(JSON.stringify(shortened(reading)));
    }
    let end = 0;
    const ends = details.map((text) => (end += Buffer.byteLength(text)));
    // An encoder's memory is nobody else's, and may be handed over.
    const encoded = new TextEncoder().encode(details.join(''));
    return { id, type: 'read', models: JSON.stringify(models), details: encoded, ends };
  } catch (error) {
    return { id, type: 'failed', message: messageOf(error) };
  }
}

/** Without the tail of long lists: a data set may have ten thousand tags. */
function shortened(reading: ModelReading): ModelReading {
  const { facts } = reading;
  const tags = facts?.training?.tags;
  if (facts === undefined || tags === undefined || tags.length <= MAX_TAGS) return reading;
  return { ...reading, facts: { ...facts, training: { ...facts.training, tags: tags.slice(0, MAX_TAGS) } } };
}
