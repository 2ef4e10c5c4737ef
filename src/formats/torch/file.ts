/**
 * PyTorch's files (`.pt`, `.pth`, `.bin`, `.ckpt`): tables of tensors, read without Python.
 *
 * No pickle is executed. A model whose pickle asks for anything but tensors and the few harmless names that ComfyUI's own
 * loader lets through is refused, and the names are told. Tensors stay where they lie in the file.
 */
import type { FileHandle } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { throwIfAborted } from '../../common/abort.js';
import { ModelFormatError } from '../../common/errors.js';
import type { Shape } from '../../tensor/tensor.js';
import { readRange, withFile } from '../file-access.js';
import { stampOf, type ModelHeader, type StridedTensorInfo, type TensorInfo } from '../model-header.js';
import { judgeImport, type PickleImport } from '../pickle/imports.js';
import { PickleProblem } from '../pickle/problem.js';
import type { TensorPlace } from '../pickle/values.js';
import { readArchive } from './archive.js';
import { readLegacy } from './legacy.js';
import type { PickledFile, StoragePlaces } from './pickled-file.js';
import { findTensors, readTable, type TensorTableEntries } from './table.js';
import { ArchiveProblem } from './zip.js';

/** What a pickle says, for people who want to know before they load it elsewhere. */
export interface PickleInspection {
  readonly container: 'zip' | 'pickle';
  /** What Python would import, in order, each once; also of a file that is broken. */
  readonly imports: readonly PickleImport[];
  /** As far as the file can be read; names as in a ModelHeader. */
  readonly tensors: readonly PickledTensorInfo[];
  /** Texts, numbers and truth values beside the tensors, as text. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Why it cannot be read to the end: such a file is not safe but unknown. */
  readonly problem?: string;
}

interface PickledTensorInfo {
  readonly name: string;
  readonly dtype: string;
  readonly shape: Shape;
  readonly sizeBytes: number;
}

/**
 * Reads the table of tensors of a PyTorch file, of either form; no tensor data is read.
 *
 * @param options.soleTensor Name for the tensor of a file that holds one and no table; such files are refused without.
 * @throws {ModelNotFoundError} when there is no such file.
 * @throws {ModelFormatError} `MODEL_UNREADABLE`; `PICKLE_REFUSED` when it asks for more than tensors, with the names in
 *   `details.asksFor`; `TORCH_INVALID` when it is not sound.
 */
export async function readTorchHeader(
  path: string,
  options: { signal?: AbortSignal; soleTensor?: string } = {},
): Promise<ModelHeader> {
  const label = basename(path);
  return withFile(path, async (file, realPath) => {
    const stat = await file.stat();
    throwIfAborted(options.signal);
    const imports = new Set<string>();
    try {
      const pickled = await readPickled(file, stat.size, label, imports);
      refuseImports(imports, path);
      const table = readTable(pickled.root, options.soleTensor);
      const storages = new Map([...table.tensors.values()].map(({ storage }) => [storage.key, storage]));
      const places = await pickled.locate([...storages.values()]);
      const place = { path: realPath, folder: dirname(realPath), stamp: stampOf(stat) };
      return { ...place, container: 'torch', sizeBytes: stat.size, ...placeTensors(table, places) };
    } catch (error) {
      refuseImports(imports, path);
      if (!(error instanceof PickleProblem || error instanceof ArchiveProblem)) throw error;
      throw new ModelFormatError('TORCH_INVALID', `${label} is not a usable PyTorch file: ${error.message}.`, {
        cause: error,
        details: { file: label, problem: error.message },
      });
    }
  });
}

/**
 * Says what a pickle, or a PyTorch file, would import and which tensors it has. Never refuses what it can describe.
 *
 * @throws {ModelNotFoundError}, {ModelFormatError} `MODEL_UNREADABLE`.
 */
export async function inspectPickle(path: string, options: { signal?: AbortSignal } = {}): Promise<PickleInspection> {
  const label = basename(path);
  return withFile(path, async (file) => {
    const { size } = await file.stat();
    throwIfAborted(options.signal);
    const imports = new Set<string>();
    const found: { tensors: ReadonlyMap<string, TensorPlace>; metadata: ReadonlyMap<string, string> } = {
      tensors: new Map(),
      metadata: new Map(),
    };
    let problem: string | undefined;
    try {
      const { root, locate } = await readPickled(file, size, label, imports);
      try {
        Object.assign(found, readTable(root));
      } catch (error) {
        if (!(error instanceof PickleProblem)) throw error;
        found.tensors = findTensors(root);
      }
      await locate([...new Map([...found.tensors.values()].map(({ storage }) => [storage.key, storage])).values()]);
    } catch (error) {
      if (!(error instanceof PickleProblem || error instanceof ArchiveProblem)) throw error;
      problem = error.message;
    }
    return {
      container: (await isArchive(file, size, label)) ? 'zip' : 'pickle',
      imports: [...imports].map(judgeImport),
      tensors: [...found.tensors].map(([name, { dtype, shape, sizeBytes }]) => ({ name, dtype, shape, sizeBytes })),
      metadata: found.metadata,
      ...(problem === undefined ? {} : { problem }),
    };
  });
}

async function readPickled(
  file: FileHandle,
  fileBytes: number,
  label: string,
  imports: Set<string>,
): Promise<PickledFile> {
  const read = (await isArchive(file, fileBytes, label)) ? readArchive : readLegacy;
  return read(file, fileBytes, label, imports);
}

async function isArchive(file: FileHandle, fileBytes: number, label: string): Promise<boolean> {
  const first = await readRange(file, 0, Math.min(4, fileBytes), label);
  return Buffer.from(first).toString('latin1') === 'PK\u0003\u0004';
}

function refuseImports(imports: ReadonlySet<string>, path: string): void {
  const judged = [...imports].map(judgeImport).filter(({ verdict }) => verdict !== 'harmless');
  if (judged.length === 0) return;
  const dangerous = judged.filter(({ verdict }) => verdict === 'dangerous');
  const named = (dangerous.length > 0 ? dangerous : judged).map(({ name }) => name);
  const list = `${named.slice(0, 5).join(', ')}${named.length > 5 ? ` and ${named.length - 5} more` : ''}`;
  const advice =
    dangerous.length > 0
      ? 'No model needs that; whoever loads it with Python runs it. Nothing was executed here. Delete the file'
      : "ComfyUI's own loader refuses that too. Nothing was executed. Look for the model as safetensors";
  throw new ModelFormatError('PICKLE_REFUSED', `${basename(path)} asks Python for ${list}. ${advice}.`, {
    details: { path, asksFor: judged.map(({ name }) => name), dangerous: dangerous.map(({ name }) => name) },
  });
}

function placeTensors(
  { tensors: table, metadata }: TensorTableEntries,
  places: StoragePlaces,
): Pick<ModelHeader, 'tensors' | 'strided' | 'metadata'> {
  const tensors = new Map<string, TensorInfo>();
  const strided = new Map<string, StridedTensorInfo>();
  for (const [name, { dtype, shape, strides, storage, offset: within, sizeBytes }] of table) {
    const begin = places.get(storage.key);
    if (begin === undefined) throw new PickleProblem(`it lacks the data of ${JSON.stringify(name)}`);
    const info = { name, dtype, shape, offset: begin + within, sizeBytes };
    if (isRowByRow(shape, strides)) tensors.set(name, info);
    else strided.set(name, { ...info, strides });
  }
  return { tensors, strided, metadata };
}

/** A side of one is never stepped over, and nothing lies in a tensor without elements. */
function isRowByRow(shape: Shape, strides: readonly number[]): boolean {
  if (shape.includes(0)) return true;
  let expected = 1;
  for (let i = shape.length - 1; i >= 0; i -= 1) {
    const side = shape[i] ?? 1;
    if (side !== 1 && strides[i] !== expected) return false;
    expected *= side;
  }
  return true;
}
