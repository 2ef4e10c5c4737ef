/**
 * PyTorch's files from before 1.6: a run of pickles, then the storages one after the other; and plain pickles.
 *
 * Source: torch/serialization.py, `_legacy_load`; torch/csrc, how storages are written to files.
 */
import type { FileHandle } from 'node:fs/promises';
import { readRange } from '../file-access.js';
import { PickleProblem } from '../pickle/problem.js';
import { PickledStorage, PickleDict, PickleList, type OpaqueValue, type PickleValue } from '../pickle/values.js';
import { DTYPE_BYTES } from './dtypes.js';
import { PickleRun } from './pickle-run.js';
import type { PickledFile, StoragePlaces } from './pickled-file.js';
import { createTorchWorld } from './world.js';

const MAGIC = 0x1950a86a20f9469cfc6cn;
const PROTOCOL = 1001;
/** Pickles after the first one of a plain file: whoever loads the file again and again would load them. */
const MAX_FURTHER = 16;

export async function readLegacy(
  file: FileHandle,
  fileBytes: number,
  label: string,
  imports: Set<string>,
): Promise<PickledFile> {
  const run = new PickleRun(file, fileBytes, label);
  const storages = new Map<string, PickledStorage | OpaqueValue>();
  const world = createTorchWorld(storages);
  try {
    const first = await run.next(world);
    if (first !== MAGIC) return await readPlain(run, first);
    const protocol = await run.next(world);
    if (protocol !== PROTOCOL) throw new PickleProblem("it has another protocol than PyTorch's old files");
    checkByteOrder(await run.next(world));
    const root = await run.next(world);
    const keys = keysOf(await run.next(world));
    const { position } = run;
    return { root, locate: () => locateStorages(file, fileBytes, label, { position, keys, storages }) };
  } finally {
    for (const name of run.imports) imports.add(name);
  }
}

async function readPlain(run: PickleRun, root: PickleValue): Promise<PickledFile> {
  for (let i = 0; i < MAX_FURTHER && run.hasNext; i += 1) {
    try {
      await run.next(createTorchWorld(new Map<string, PickledStorage | OpaqueValue>()));
    } catch (error) {
      // What follows a pickle need not be one.
      if (error instanceof PickleProblem) break;
      throw error;
    }
  }
  return {
    root,
    locate: (storages) => {
      if (storages.length > 0) throw new PickleProblem('the data of its tensors is not in it');
      return Promise.resolve(new Map());
    },
  };
}

function checkByteOrder(system: PickleValue): void {
  if (system instanceof PickleDict && system.entries.get('little_endian') === false) {
    throw new PickleProblem('its numbers have the byte order "big"; little is read');
  }
}

function keysOf(value: PickleValue): readonly string[] {
  if (!(value instanceof PickleList)) throw new PickleProblem('it has no list of its storages');
  return value.items.map((key) => {
    if (typeof key !== 'string' && typeof key !== 'number') throw new PickleProblem('it has a storage without a key');
    return String(key);
  });
}

interface StorageRun {
  readonly position: number;
  readonly keys: readonly string[];
  readonly storages: ReadonlyMap<string, PickledStorage | OpaqueValue>;
}

/** Every storage is its number of elements in eight bytes, then the elements. */
async function locateStorages(
  file: FileHandle,
  fileBytes: number,
  label: string,
  { position, keys, storages }: StorageRun,
): Promise<StoragePlaces> {
  const places = new Map<string, number>();
  let at = position;
  for (const key of keys) {
    const storage = storages.get(key);
    if (!(storage instanceof PickledStorage)) throw new PickleProblem(`it has a storage ${key} of no known size`);
    if (at + 8 > fileBytes) throw new PickleProblem('it ends before its storages do: a truncated download?');
    const header = await readRange(file, at, 8, label);
    const elements = new DataView(header.buffer).getBigUint64(0, true);
    const elementBytes = storage.dtype === undefined ? 1 : (DTYPE_BYTES.get(storage.dtype) ?? 1);
    const bytes = elements * BigInt(elementBytes);
    if (bytes !== BigInt(storage.sizeBytes)) {
      throw new PickleProblem(`its storage ${key} has ${bytes} bytes in place of ${storage.sizeBytes}`);
    }
    places.set(key, at + 8);
    at += 8 + storage.sizeBytes;
    if (at > fileBytes) {
      throw new PickleProblem(`its tensors need ${at} bytes but the file has ${fileBytes}: a truncated download?`);
    }
  }
  return places;
}
