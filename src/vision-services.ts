/**
 * The vision engine with all that it works with: the inference process, the process that quantises, threads, and the store.
 *
 * The server, the command line and the library compose it alike, and share the store of the data folder. Nothing starts
 * before it is needed.
 */
import { join } from 'node:path';
import type { Logger } from './common/logger.js';
import { InferenceProcess, ThreadPool, type Device } from './runtime/index.js';
import { openStore, type Store } from './store/index.js';
import { Quantizer, VisionEngine } from './vision/index.js';
import { INFERENCE_PROCESS_ENTRY, THREAD_ENTRY } from './workers/index.js';

export interface VisionServicesOptions {
  /** Folder of ours, for the store and the int8 weights. */
  readonly dataDirectory: string;
  /** Bound of the feature store; 0 keeps no features. */
  readonly maxFeatureBytes: number;
  readonly idleReleaseMs: number;
  readonly maxPendingCalls: number;
  readonly device?: Device;
  /** Bytes that all encoders in memory may take together. */
  readonly memoryBudgetBytes?: number;
  readonly logger: Logger;
}

export interface VisionServices extends AsyncDisposable {
  readonly engine: VisionEngine;
  readonly inference: InferenceProcess;
  readonly threads: ThreadPool;
  /** Opened when it is first asked for. */
  readonly store: () => Promise<Store>;
  /** What is remembered between runs; features where they are kept. */
  readonly memory: () => Promise<Pick<Store, 'fileHashes'> & Partial<Pick<Store, 'features'>>>;
  /** Folder of the int8 forms. */
  readonly quantizedDirectory: string;
  readonly logger: Logger;
}

/** Nobody waits for the process that quantises once it has done so. */
const QUANTIZER_IDLE_MS = 1000;

export function createVisionServices(options: VisionServicesOptions): VisionServices {
  const { dataDirectory, maxFeatureBytes, idleReleaseMs, maxPendingCalls, logger } = options;
  const entry = INFERENCE_PROCESS_ENTRY;
  const inference = new InferenceProcess({ entry, idleReleaseMs, maxPendingCalls, logger });
  const quantizing = new InferenceProcess({ entry, idleReleaseMs: QUANTIZER_IDLE_MS, maxPendingCalls, logger });
  const threads = new ThreadPool(THREAD_ENTRY);
  const quantizedDirectory = join(dataDirectory, 'quantized');
  let opened: Promise<Store> | undefined;
  const store = (): Promise<Store> => (opened ??= openStore({ directory: dataDirectory, maxFeatureBytes, logger }));
  const memory: VisionServices['memory'] = async () => {
    const { fileHashes, features } = await store();
    return { fileHashes, ...(maxFeatureBytes > 0 ? { features } : {}) };
  };
  const engine = new VisionEngine({
    inference,
    threads,
    quantizer: new Quantizer({ directory: quantizedDirectory, process: quantizing, logger }),
    memory,
    logger,
    maxPending: maxPendingCalls,
    ...(options.device === undefined ? {} : { device: options.device }),
    ...(options.memoryBudgetBytes === undefined ? {} : { memoryBudgetBytes: options.memoryBudgetBytes }),
  });
  return {
    engine,
    inference,
    threads,
    store,
    memory,
    quantizedDirectory,
    logger,
    async [Symbol.asyncDispose]() {
      await quantizing[Symbol.asyncDispose]();
      await inference[Symbol.asyncDispose]();
      await threads[Symbol.asyncDispose]();
      await (await opened)?.[Symbol.asyncDispose]();
    },
  };
}
