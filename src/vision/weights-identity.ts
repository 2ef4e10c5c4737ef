/**
 * Which weights a file holds, whatever its name: the SHA-256 of its contents.
 *
 * Reading gigabytes takes a second or more, so it is done once for every state of a file, in a thread, and remembered.
 */
import { SingleFlight } from '../common/single-flight.js';
import type { ThreadPool } from '../runtime/index.js';
import { HASH_FILES_TASK } from './thread-tasks.js';

/** Where hashes are remembered. */
export interface HashMemory {
  get(stamp: string): string | undefined;
  put(stamp: string, sha256: string): Promise<void>;
}

/** A model as far as its identity goes. */
interface ModelFiles {
  readonly stamp: string;
  readonly files: readonly string[];
}

export class WeightsIdentity {
  readonly #memory: HashMemory;
  readonly #threads: ThreadPool;
  readonly #running = new SingleFlight<string, string>();

  constructor(memory: HashMemory, threads: ThreadPool) {
    this.#memory = memory;
    this.#threads = threads;
  }

  /** What is known already. */
  known({ stamp }: Pick<ModelFiles, 'stamp'>): string | undefined {
    return this.#memory.get(stamp);
  }

  /** Reads the files where need be; many may ask at once. @throws {ModelFormatError} `MODEL_UNREADABLE` */
  async find({ stamp, files }: ModelFiles): Promise<string> {
    return (
      this.#memory.get(stamp) ??
      this.#running.run(stamp, async () => {
        const sha256 = await this.#threads.run<string>(HASH_FILES_TASK, files);
        await this.#memory.put(stamp, sha256);
        return sha256;
      })
    );
  }
}
