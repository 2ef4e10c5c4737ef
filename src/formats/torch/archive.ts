/** PyTorch's archives (since 1.6): a pickle that describes the tensors, and an entry for every storage. */
import type { FileHandle } from 'node:fs/promises';
import { PickleMachine } from '../pickle/machine.js';
import { PickleProblem } from '../pickle/problem.js';
import type { OpaqueValue, PickledStorage, PickleValue } from '../pickle/values.js';
import { MAX_PICKLE_BYTES } from './pickle-run.js';
import type { PickledFile, StoragePlaces } from './pickled-file.js';
import { createTorchWorld } from './world.js';
import { ArchiveProblem, locateEntry, readEntry, readZipDirectory, STORED, type ZipDirectory } from './zip.js';

const TABLE = /^(?:[^/]+\/)?data\.pkl$/;
const ANY_PICKLE = /\.(pkl|pickle)$/i;
/** TorchScript programs have a handful. */
const MAX_PICKLES = 64;
const MAX_SMALL_BYTES = 1024;
/** Entries whose own headers are read at a time. */
const PARALLEL = 32;

/**
 * Reads the pickles of an archive; of a broken one, as much as can be read.
 *
 * @throws what reading the file throws.
 */
export async function readArchive(
  file: FileHandle,
  fileBytes: number,
  label: string,
  imports: Set<string>,
): Promise<PickledFile> {
  const directory = await readZipDirectory(file, fileBytes, label);
  const names = [...directory.entries.keys()];
  const tables = names.filter((name) => TABLE.test(name));
  const pickles = names.filter((name) => ANY_PICKLE.test(name));
  if (pickles.length > MAX_PICKLES) throw new ArchiveProblem(`it has ${pickles.length} pickles`);
  const roots = new Map<string, PickleValue>();
  const problems = new Map<string, Error>();
  for (const name of pickles) {
    try {
      roots.set(name, await runPickle(file, directory, name, label, imports));
    } catch (error) {
      if (!(error instanceof PickleProblem || error instanceof ArchiveProblem)) throw error;
      problems.set(name, error);
    }
  }
  const [table, second] = tables;
  if (table === undefined) throw new ArchiveProblem('it has no data.pkl: it is another kind of archive');
  if (second !== undefined) throw new ArchiveProblem(`it has two tables of tensors, ${table} and ${second}`);
  const [problem] = [problems.get(table), ...problems.values()].filter((error) => error !== undefined);
  if (problem !== undefined) throw problem;
  const prefix = table.slice(0, -'data.pkl'.length);
  if (names.includes(`${prefix}constants.pkl`)) {
    throw new ArchiveProblem('it is a TorchScript program, not a table of tensors');
  }
  await checkByteOrder(file, directory, prefix, label);
  return {
    root: roots.get(table) ?? null,
    locate: (storages) => locateStorages(file, directory, prefix, storages, label),
  };
}

async function runPickle(
  file: FileHandle,
  directory: ZipDirectory,
  name: string,
  label: string,
  imports: Set<string>,
): Promise<PickleValue> {
  const entry = directory.entries.get(name);
  if (entry === undefined) throw new ArchiveProblem(`it has no ${name}`);
  const bytes = await readEntry(file, entry, directory, { maxBytes: MAX_PICKLE_BYTES, label });
  const machine = new PickleMachine(bytes, 0, createTorchWorld(new Map<string, PickledStorage | OpaqueValue>()));
  try {
    return machine.run();
  } finally {
    for (const imported of machine.imports) imports.add(imported);
  }
}

async function checkByteOrder(file: FileHandle, directory: ZipDirectory, prefix: string, label: string): Promise<void> {
  const entry = directory.entries.get(`${prefix}byteorder`);
  if (entry === undefined) return;
  const bytes = await readEntry(file, entry, directory, { maxBytes: MAX_SMALL_BYTES, label });
  const order = new TextDecoder().decode(bytes).trim();
  if (order !== 'little') {
    throw new ArchiveProblem(`its numbers have the byte order ${JSON.stringify(order)}; little is read`);
  }
}

async function locateStorages(
  file: FileHandle,
  directory: ZipDirectory,
  prefix: string,
  storages: readonly PickledStorage[],
  label: string,
): Promise<StoragePlaces> {
  const places = new Map<string, number>();
  const locate = async ({ key, sizeBytes }: PickledStorage): Promise<void> => {
    const name = `${prefix}data/${key}`;
    const entry = directory.entries.get(name);
    if (entry === undefined) throw new ArchiveProblem(`it lacks the data of a tensor, ${JSON.stringify(name)}`);
    if (entry.method !== STORED) {
      throw new ArchiveProblem(
        `the data of its tensors is packed (method ${entry.method}), so it cannot be used where it lies; save it again with torch.save`,
      );
    }
    if (entry.sizeBytes < sizeBytes) {
      throw new ArchiveProblem(
        `${JSON.stringify(name)} has ${entry.sizeBytes} bytes of the ${sizeBytes} that a tensor needs`,
      );
    }
    places.set(key, await locateEntry(file, entry, directory, label));
  };
  for (let first = 0; first < storages.length; first += PARALLEL) {
    await Promise.all(storages.slice(first, first + PARALLEL).map(locate));
  }
  return places;
}
