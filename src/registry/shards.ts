/**
 * Models in several files: told by their names (`x-00001-of-00003.safetensors`) and by the table beside them
 * (`x.safetensors.index.json`), and counted as one.
 *
 * What a part holds says little; all parts' tensors together are described like those of one file.
 */
import { createHash } from 'node:crypto';
import { closeSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { openRegularFileSync } from '../common/regular-file.js';
import {
  ByteSource,
  readFileHeader,
  readGgufHeader,
  stampKey,
  stampOf,
  TensorTable,
  type GgufHeader,
  type TensorEntry,
} from '../formats/index.js';
import { describeGguf } from './classify/containers.js';
import { joinFacts, readMetadataFacts } from './classify/metadata.js';
import { classifyTable } from './classify/table.js';
import type { ModelReading } from './read-model.js';
import type { ModelEntry } from './entry.js';
import { rowOf, type ModelRow } from './row.js';
import type { ShardIndex } from './sidecars.js';

/** Of a model in several files; its entry is the first part, with the size of all. */
export interface ShardSet {
  readonly parts: readonly ModelEntry[];
  /** Names of parts that are not there. */
  readonly missing: readonly string[];
  /** The table, where there is one. */
  readonly index?: string;
}

export interface JoinedShards {
  /** States of the files as they were read. */
  readonly keys: readonly string[];
  readonly row: ModelRow;
  /** JSON of a ModelReading. */
  readonly details: string;
}

const PART_NAME = /^(.+)-(\d{5})-of-(\d{5})(\.[a-z0-9]+)$/i;
const MAX_PARTS = 1000;
const MAX_NAMED = 5;

interface Group {
  readonly parts: ModelEntry[];
  readonly expected: readonly string[];
  index: ShardIndex | undefined;
}

/** The identity of a model in several files, from those of its parts. */
function shardsKey(parts: readonly { readonly key: string }[]): string {
  const hash = createHash('sha256');
  for (const { key } of parts) hash.update(`${key}\n`);
  return `shards:${hash.digest('hex')}`;
}

/**
 * Puts one entry in the place of the parts of each model; the others stay as they are.
 *
 * @param indexes By the path of their folder.
 * @param joined What is known of models in several files, by key.
 */
export function gatherShards(
  entries: readonly ModelEntry[],
  indexes: ReadonlyMap<string, readonly ShardIndex[]>,
  joined: (key: string) => ModelRow | undefined,
): readonly ModelEntry[] {
  const groups = groupParts(entries, indexes);
  if (groups.size === 0) return entries;
  const found: ModelEntry[] = [];
  const done = new Set<Group>();
  for (const entry of entries) {
    const group = groups.get(entry);
    if (group === undefined) found.push(entry);
    else if (!done.has(group)) {
      done.add(group);
      found.push(entryOf(group, joined));
    }
  }
  return found;
}

function groupParts(
  entries: readonly ModelEntry[],
  indexes: ReadonlyMap<string, readonly ShardIndex[]>,
): Map<ModelEntry, Group> {
  const byName = new Map<string, Group>();
  const groups = new Map<ModelEntry, Group>();
  const place = ({ folder, root, path }: ModelEntry): string => `${folder}\0${root}\0${dirname(path)}`;
  for (const entry of entries) {
    if (!entry.name.includes('-of-')) continue;
    const [, stem = '', , count = '', ending = ''] = PART_NAME.exec(fileName(entry)) ?? [];
    const total = Number(count);
    if (stem === '' || total < 2 || total > MAX_PARTS) continue;
    const key = `${place(entry)}\0${stem}\0${count}\0${ending.toLowerCase()}`;
    const group = byName.get(key) ?? { parts: [], expected: partNames(stem, count, ending), index: undefined };
    group.parts.push(entry);
    byName.set(key, group);
    groups.set(entry, group);
  }
  if (indexes.size === 0) return groups;
  const byFolder = new Map<string, ModelEntry[]>();
  for (const entry of entries) {
    const folder = dirname(entry.path);
    if (indexes.has(folder)) byFolder.set(folder, [...(byFolder.get(folder) ?? []), entry]);
  }
  for (const [folder, tables] of indexes) {
    for (const index of tables) {
      if (index.files.length === 0) continue;
      const files = new Set(index.files);
      // The same folder may be listed under several folder names: a model for each.
      const byPlace = new Map<string, ModelEntry[]>();
      for (const entry of byFolder.get(folder) ?? []) {
        if (!files.has(fileName(entry))) continue;
        byPlace.set(place(entry), [...(byPlace.get(place(entry)) ?? []), entry]);
      }
      for (const parts of byPlace.values()) {
        const group: Group = { parts, expected: index.files, index };
        if (index.files.length > 1) for (const part of parts) groups.set(part, group);
      }
    }
  }
  for (const group of byName.values()) {
    const left = group.parts.filter((part) => groups.get(part) === group);
    group.parts.splice(0, group.parts.length, ...left);
  }
  return groups;
}

function entryOf({ parts, expected, index }: Group, joined: (key: string) => ModelRow | undefined): ModelEntry {
  const sorted = [...parts].sort((a, b) => (a.name < b.name ? -1 : 1));
  const [first = parts[0]] = sorted;
  if (first === undefined) throw new RangeError('a group has a part');
  const present = new Set(sorted.map(fileName));
  const missing = expected.filter((name) => !present.has(name));
  const key = shardsKey(sorted);
  const sum = (value: (part: ModelEntry) => number): number => sorted.reduce((total, part) => total + value(part), 0);
  const row = brokenRow(sorted, missing, expected.length) ?? (sorted.every(isRead) ? joined(key) : undefined);
  return {
    ...first,
    sizeBytes: sum(({ sizeBytes }) => sizeBytes),
    sizeOnDisk: sum(({ sizeOnDisk }) => sizeOnDisk),
    modifiedMs: Math.max(...sorted.map(({ modifiedMs }) => modifiedMs)),
    key,
    shards: { parts: sorted, missing, ...(index === undefined ? {} : { index: index.path }) },
    // The first part's own says nothing of the whole.
    row,
  };
}

function isRead({ row }: ModelEntry): boolean {
  return row !== undefined;
}

/** A model with a part missing or broken is as broken as that. */
function brokenRow(parts: readonly ModelEntry[], missing: readonly string[], expected: number): ModelRow | undefined {
  const format = parts[0]?.row?.format;
  const about = format === undefined ? {} : { format };
  if (missing.length > 0) {
    const named = missing.slice(0, MAX_NAMED).join(', ');
    const more = missing.length > MAX_NAMED ? `, and ${missing.length - MAX_NAMED} more` : '';
    const problem = `${missing.length} of its ${expected} parts ${missing.length === 1 ? 'is' : 'are'} missing: ${named}${more}`;
    return { status: 'incomplete', problem, ...about };
  }
  for (const part of parts) {
    const { row } = part;
    if (row === undefined || row.status === 'ok') continue;
    return { ...about, status: row.status, problem: `its part ${fileName(part)}: ${row.problem ?? 'cannot be read'}` };
  }
  const rows = parts.flatMap(({ row }) => row ?? []);
  const odd = rows.find(({ verdict }) => verdict === 'dangerous') ?? rows.find(({ verdict }) => verdict === 'unknown');
  if (odd?.verdict === undefined) return undefined;
  const { verdict, dangerous } = odd;
  return { ...about, status: 'ok', verdict, ...(dangerous === undefined ? {} : { dangerous }) };
}

function partNames(stem: string, count: string, ending: string): readonly string[] {
  return Array.from(
    { length: Number(count) },
    (_none, i) => `${stem}-${String(i + 1).padStart(5, '0')}-of-${count}${ending}`,
  );
}

function fileName({ name }: ModelEntry): string {
  return name.slice(name.lastIndexOf('/') + 1);
}

/** Reads the headers of all parts, in a thread, and describes their tensors as those of one model. */
export async function joinShards(paths: readonly string[]): Promise<JoinedShards> {
  const isGguf = paths.every((path) => path.toLowerCase().endsWith('.gguf'));
  const { keys, reading } = isGguf ? joinGguf(paths) : await joinTables(paths);
  return { keys, row: rowOf(reading), details: JSON.stringify(reading) };
}

interface Joined {
  readonly keys: readonly string[];
  readonly reading: ModelReading;
}

async function joinTables(paths: readonly string[]): Promise<Joined> {
  const tensors = new Map<string, TensorEntry>();
  const metadata = new Map<string, string>();
  const keys: string[] = [];
  let format: ModelReading['format'] = 'safetensors';
  for (const path of paths) {
    const header = await readFileHeader(path);
    keys.push(stampKey(header.stamp));
    if (header.container === 'torch') format = 'pickle-zip';
    for (const [name, info] of [...header.tensors, ...header.strided]) tensors.set(name, info);
    for (const [name, text] of header.metadata) metadata.set(name, text);
  }
  const table = TensorTable.fromEntries([...tensors.values()]);
  const facts = joinFacts(classifyTable(table), readMetadataFacts(metadata));
  // readFileHeader refuses pickles that ask for more than tensors.
  const pickle = format === 'safetensors' ? {} : { pickle: { globals: [], verdict: 'safe' as const } };
  return { keys, reading: { status: 'ok', format, ...pickle, facts } };
}

/** llama.cpp splits files so: every part has a header, the first the keys of all. */
function joinGguf(paths: readonly string[]): Joined {
  const keys: string[] = [];
  const entries: TensorEntry[] = [];
  let first: GgufHeader | undefined;
  for (const path of paths) {
    const { file, stats } = openRegularFileSync(path);
    try {
      keys.push(stampKey(stampOf(stats)));
      const header = readGgufHeader(new ByteSource(file, stats.size), basename(path));
      first ??= header;
      const { table } = header;
      for (let i = 0; i < table.count; i += 1) {
        const [offset = 0, sizeBytes = 0] = [table.columns.offsets[i], table.columns.sizes[i]];
        entries.push({ name: table.name(i), dtype: table.dtype(i), shape: table.shape(i), offset, sizeBytes });
      }
    } finally {
      closeSync(file);
    }
  }
  if (first === undefined) throw new RangeError('a model in several files has a file');
  return { keys, reading: describeGguf({ ...first, table: TensorTable.fromEntries(entries) }) };
}
