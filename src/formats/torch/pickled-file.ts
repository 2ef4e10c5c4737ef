/** What the two forms of PyTorch's files have in common once they are read. */
import type { PickledStorage, PickleValue } from '../pickle/values.js';

/** Absolute position of every storage's first byte, by key. */
export type StoragePlaces = ReadonlyMap<string, number>;

export interface PickledFile {
  /** What the file describes. */
  readonly root: PickleValue;
  /** Finds and bounds the data; the file is open meanwhile. */
  readonly locate: (storages: readonly PickledStorage[]) => Promise<StoragePlaces>;
}
