/** Pickles in a file, one after the other, of which only the beginning may be pickles. */
import type { FileHandle } from 'node:fs/promises';
import { readRange } from '../file-access.js';
import { PickleMachine, type PickleWorld } from '../pickle/machine.js';
import { PickleEndedEarly, PickleProblem } from '../pickle/problem.js';
import type { PickleValue } from '../pickle/values.js';

/** The pickles of a checkpoint of many thousand tensors have a few megabytes. */
export const MAX_PICKLE_BYTES = 64 * 2 ** 20;
const FIRST_BYTES = 256 * 1024;
const GROWTH = 8;

export class PickleRun {
  /** All that any of the pickles would import, in order; also of one that is broken. */
  readonly imports = new Set<string>();
  readonly #file: FileHandle;
  readonly #fileBytes: number;
  readonly #label: string;
  #bytes: Uint8Array = new Uint8Array(0);
  #position = 0;

  constructor(file: FileHandle, fileBytes: number, label: string) {
    this.#file = file;
    this.#fileBytes = fileBytes;
    this.#label = label;
  }

  /** Where the next pickle begins, or what follows the last one. */
  get position(): number {
    return this.#position;
  }

  /** Whether a pickle of protocol 2 or later seems to follow. */
  get hasNext(): boolean {
    const next = this.#bytes.subarray(this.#position, this.#position + 2);
    return next[0] === 0x80 && (next[1] ?? 0) >= 2 && (next[1] ?? 0) <= 5;
  }

  /** @throws {PickleProblem} */
  async next(world: PickleWorld): Promise<PickleValue> {
    for (;;) {
      try {
        return this.#runOnce(world);
      } catch (error) {
        if (!(error instanceof PickleEndedEarly) || !(await this.#readMore())) throw error;
      }
    }
  }

  #runOnce(world: PickleWorld): PickleValue {
    const machine = new PickleMachine(this.#bytes, this.#position, world);
    try {
      const value = machine.run();
      this.#position = machine.position;
      return value;
    } finally {
      for (const name of machine.imports) this.imports.add(name);
    }
  }

  /** False at the end of the file. */
  async #readMore(): Promise<boolean> {
    const have = this.#bytes.length;
    if (have >= this.#fileBytes) return false;
    if (have >= MAX_PICKLE_BYTES) throw new PickleProblem(`its pickles have more than ${MAX_PICKLE_BYTES} bytes`);
    const wanted = Math.min(this.#fileBytes, MAX_PICKLE_BYTES, Math.max(FIRST_BYTES, have * GROWTH));
    this.#bytes = await readRange(this.#file, 0, wanted, this.#label);
    return true;
  }
}
