/**
 * Models in several files with an index (`model.safetensors.index.json`, `pytorch_model.bin.index.json`).
 *
 * All files lie in one folder, that of the index; where they are links, as in the cache of the Hugging Face hub, the files
 * that they lead to lie in one.
 *
 * Source: Hugging Face transformers, how sharded checkpoints are saved.
 */
import { realpath, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { BridgeError, ModelFormatError, ModelNotFoundError, messageOf } from '../common/errors.js';
import { withFile } from './file-access.js';
import { stampKey, stampOf, type ModelHeader, type StridedTensorInfo, type TensorInfo } from './model-header.js';

const MAX_INDEX_BYTES = 32 * 2 ** 20;
const MAX_SHARDS = 1000;
const SHARD_NAME = /^(.+)-\d{5}-of-\d{5}(\.[a-z]+)$/i;

interface ShardIndex {
  /** Real folder of the index, and the index's own name. */
  readonly path: string;
  /** Base name of the file of every tensor. */
  readonly files: ReadonlyMap<string, string>;
  readonly fileNames: readonly string[];
  readonly metadata: ReadonlyMap<string, string>;
}

type ReadHeader = (path: string) => Promise<ModelHeader>;

/** Path of the index of which a file is a part: `model-00001-of-00002.safetensors` beside its index; undefined otherwise. */
export async function findIndex(path: string): Promise<string | undefined> {
  const [, stem, ending] = SHARD_NAME.exec(basename(path)) ?? [];
  if (stem === undefined || ending === undefined) return undefined;
  const index = join(dirname(path), `${stem}${ending}.index.json`);
  try {
    await stat(index);
  } catch {
    return undefined;
  }
  const { fileNames } = await readIndex(index);
  return fileNames.includes(basename(path)) ? index : undefined;
}

/**
 * Reads the headers of all files of a model; tensors have the `file` that they lie in.
 *
 * @param readHeader Reads one file.
 * @throws {ModelNotFoundError} when there is no index; {ModelFormatError} `SHARDS_INVALID` when index and files do not fit;
 *   what reading one file throws.
 */
export async function readShards(path: string, readHeader: ReadHeader): Promise<ModelHeader> {
  const label = basename(path);
  const index = await readIndex(path);
  const folder = dirname(path);
  const headers = new Map<string, ModelHeader>();
  for (const name of index.fileNames) {
    try {
      headers.set(name, await readHeader(join(folder, name)));
    } catch (error) {
      if (!(error instanceof ModelNotFoundError)) throw error;
      throw invalid(label, `it names ${name}, which is not beside it: a partial download?`, error);
    }
  }
  const [first] = headers.values();
  if (first === undefined) throw invalid(label, 'it names no files');
  for (const [name, header] of headers) {
    if (header.container !== first.container) throw invalid(label, 'its files have different formats');
    if (header.folder !== first.folder) throw invalid(label, `${name} is a link into another folder than the others`);
  }
  const indexStat = await stat(index.path);
  const all = [...headers.values()];
  return {
    path: index.path,
    folder: first.folder,
    container: first.container,
    sizeBytes: all.reduce((sum, { sizeBytes }) => sum + sizeBytes, indexStat.size),
    ...joinTensors(index, headers, label),
    metadata: new Map([...index.metadata, ...all.toReversed().flatMap(({ metadata }) => [...metadata])]),
    stamp: { ...stampOf(indexStat), parts: all.map(({ stamp }) => stamp) },
  };
}

/**
 * Identity of a model's files as they are now; equals `stampKey` of a header that was read from them.
 *
 * @param path The header's own path.
 * @throws {ModelNotFoundError} when a file is gone; {ModelFormatError} `SHARDS_INVALID` for an index that became unsound.
 */
export async function readStampKey(path: string): Promise<string> {
  try {
    const own = stampOf(await stat(path));
    if (!path.endsWith('.json')) return stampKey(own);
    const { fileNames } = await readIndex(path);
    const parts = await Promise.all(fileNames.map(async (name) => stampOf(await stat(join(dirname(path), name)))));
    return stampKey({ ...own, parts });
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    throw new ModelNotFoundError(`The model file ${path} is gone: ${messageOf(error)}.`, {
      cause: error,
      details: { path },
    });
  }
}

/** The same, or undefined where there is no such file: opening it says what is wrong. */
export async function stampKeyOrNone(path: string): Promise<string | undefined> {
  try {
    return await readStampKey(path);
  } catch {
    return undefined;
  }
}

async function readIndex(path: string): Promise<ShardIndex> {
  const label = basename(path);
  const json = await withFile(path, async (file) => {
    const { size } = await file.stat();
    if (size > MAX_INDEX_BYTES) throw invalid(label, `it has ${size} bytes; the limit is ${MAX_INDEX_BYTES}`);
    return file.readFile({ encoding: 'utf8' });
  });
  const { weight_map: map, metadata = {} } = await parseIndex(json, label);
  const files = new Map(Object.entries(map));
  const fileNames = [...new Set(files.values())].sort();
  if (fileNames.length > MAX_SHARDS) throw invalid(label, `it names ${fileNames.length} files`);
  const outside = fileNames.find((name) => name === '' || name === '.' || name === '..' || /[/\\\0:]/.test(name));
  if (outside !== undefined)
    throw invalid(label, `it names ${JSON.stringify(outside)}, which is no file in its folder`);
  if (fileNames.includes(label)) throw invalid(label, 'it names itself');
  const texts = Object.entries(metadata).flatMap(([key, value]): [string, string][] =>
    typeof value === 'string' || typeof value === 'number' ? [[key, String(value)]] : [],
  );
  return { path: join(await realpath(dirname(path)), label), files, fileNames, metadata: new Map(texts) };
}

async function parseIndex(
  json: string,
  label: string,
): Promise<{ weight_map: Record<string, string>; metadata?: Record<string, unknown> | undefined }> {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw invalid(label, 'it is not JSON', error);
  }
  // Loaded when it is needed: threads that read headers start faster without.
  const { shardIndexSchema } = await import('./shard-index.js');
  const parsed = shardIndexSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw invalid(label, 'it has no table "weight_map" of tensor and file names');
}

function joinTensors(
  { files }: ShardIndex,
  headers: ReadonlyMap<string, ModelHeader>,
  label: string,
): Pick<ModelHeader, 'tensors' | 'strided'> {
  const tensors = new Map<string, TensorInfo>();
  const strided = new Map<string, StridedTensorInfo>();
  for (const [name, fileName] of files) {
    const header = headers.get(fileName);
    const info = header?.tensors.get(name);
    const viewed = header?.strided.get(name);
    const file = header === undefined ? fileName : basename(header.path);
    if (info !== undefined) tensors.set(name, { ...info, file });
    else if (viewed !== undefined) strided.set(name, { ...viewed, file });
    else throw invalid(label, `${fileName} lacks the tensor ${JSON.stringify(name.slice(0, 120))}`);
  }
  return { tensors, strided };
}

function invalid(label: string, problem: string, cause?: unknown): ModelFormatError {
  return new ModelFormatError('SHARDS_INVALID', `${label} is not a usable index of a model: ${problem}.`, {
    details: { file: label, problem },
    ...(cause === undefined ? {} : { cause }),
  });
}
