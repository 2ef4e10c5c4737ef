/** A model file, as queries and statistics see it, and the roots that files are found in. */
import { extname } from 'node:path';
import type { ModelBeside } from './beside.js';
import { rowKey, type ModelRow } from './row.js';
import { NUMBERS_PER_FILE, type WalkedFiles } from './scan/walk.js';
import type { ShardSet } from './shards.js';

/** A folder to walk, and what its files are called. */
export interface ModelRoot {
  readonly path: string;
  /** ComfyUI's folder name, or that of a folder of `models/` that ComfyUI does not know. */
  readonly folder: string;
  /** Place among the roots of this folder name: earlier ones hide files of later ones. */
  readonly rootIndex: number;
  /** Endings that ComfyUI lists here; empty lists all, absent none. */
  readonly extensions?: ReadonlySet<string>;
  /** Roots of their own inside this one that are not walked with it. */
  readonly excluded?: readonly string[];
}

export interface ModelEntry {
  /** Where it was found; links are not resolved. */
  readonly path: string;
  readonly folder: string;
  /** Relative to its root, with `/`. */
  readonly name: string;
  readonly root: string;
  readonly rootIndex: number;
  readonly listedByComfyUI: boolean;
  readonly sizeBytes: number;
  /** Less than the size for sparse files and placeholders of cloud folders. */
  readonly sizeOnDisk: number;
  readonly modifiedMs: number;
  readonly hardLinks: number;
  /** Device and inode: equal for all names of one file. */
  readonly file: string;
  /** Identity of this state of the file. */
  readonly key: string;
  /** Path of a file of the same name in an earlier root, which ComfyUI opens instead. */
  readonly shadowedBy?: string;
  /** Absent while the scan has not come to it. */
  readonly row?: ModelRow | undefined;
  /** What files beside it claim. */
  readonly beside?: ModelBeside;
  /** For a model in several files, whose first part this entry names. */
  readonly shards?: ShardSet;
}

/** Entries of files of a root. */
export function entriesOf(
  root: ModelRoot,
  { names, numbers }: WalkedFiles,
  rowOfKey: (key: string) => ModelRow | undefined,
): ModelEntry[] {
  const { folder, rootIndex, extensions } = root;
  const prefix = root.path.endsWith('/') ? root.path : `${root.path}/`;
  return names.map((name, i) => {
    const at = i * NUMBERS_PER_FILE;
    const stamp = {
      device: numbers[at] ?? 0,
      inode: numbers[at + 1] ?? 0,
      sizeBytes: numbers[at + 2] ?? 0,
      modifiedMs: numbers[at + 3] ?? 0,
    };
    const key = rowKey(stamp);
    return {
      path: prefix + name,
      folder,
      name,
      root: root.path,
      rootIndex,
      listedByComfyUI:
        extensions !== undefined && (extensions.size === 0 || extensions.has(extname(name).toLowerCase())),
      sizeBytes: stamp.sizeBytes,
      sizeOnDisk: (numbers[at + 5] ?? 0) * 512,
      modifiedMs: stamp.modifiedMs,
      hardLinks: numbers[at + 4] ?? 1,
      file: `${stamp.device}:${stamp.inode}`,
      key,
      row: rowOfKey(key),
    };
  });
}

/** Marks files that an earlier root of the same folder name hides. */
export function withShadows(entries: readonly ModelEntry[]): readonly ModelEntry[] {
  if (entries.every(({ rootIndex }) => rootIndex === 0)) return entries;
  const first = new Map<string, ModelEntry>();
  for (const entry of entries) {
    const id = `${entry.folder}\0${entry.name}`;
    const known = first.get(id);
    if (known === undefined || entry.rootIndex < known.rootIndex) first.set(id, entry);
  }
  if (first.size === entries.length) return entries;
  return entries.map((entry) => {
    const winner = first.get(`${entry.folder}\0${entry.name}`);
    return winner === undefined || winner === entry || winner.path === entry.path
      ? entry
      : { ...entry, shadowedBy: winner.path };
  });
}
