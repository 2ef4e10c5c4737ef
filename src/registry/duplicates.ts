/** Files with the same content, and what deleting all but one of each would free. Links are no duplicates. */
import type { ModelEntry } from './entry.js';
import type { ModelRegistry } from './registry.js';

interface DuplicateGroup {
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly reclaimableBytes: number;
  readonly files: readonly ModelEntry[];
}

export interface Duplicates {
  readonly groups: readonly DuplicateGroup[];
  readonly reclaimableBytes: number;
  /** Files that could not be read. */
  readonly problems: readonly string[];
  /** Files that may be there twice by size and header, and were not hashed. */
  readonly unread: readonly ModelEntry[];
}

export interface DuplicateOptions {
  /** Hash files whose hashes are not known yet. Default true; else they are told as `unread`. */
  readonly mayRead?: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

/** Compares sizes first, then what the headers say, then hashes the files that are left. Hashes are kept. */
export async function findDuplicates(
  registry: ModelRegistry,
  entries: readonly ModelEntry[],
  { signal, onProgress, mayRead = true }: DuplicateOptions = {},
): Promise<Duplicates> {
  const files = new Map<string, ModelEntry>();
  for (const entry of entries.flatMap((model) => model.shards?.parts ?? model))
    if (entry.sizeBytes > 0 && !files.has(entry.file)) files.set(entry.file, entry);
  const candidates = [...groupBy([...files.values()], likeness).values()].filter((group) => group.length > 1);
  const totalBytes = candidates.flat().reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const groups: DuplicateGroup[] = [];
  const problems: string[] = [];
  const unread: ModelEntry[] = [];
  let doneBytes = 0;
  for (const candidate of candidates) {
    const hashed: { readonly sha256: string; readonly entry: ModelEntry }[] = [];
    for (const entry of candidate) {
      try {
        const onBytes = (done: number): void => onProgress?.(doneBytes + done, totalBytes);
        const hashes = mayRead
          ? await registry.hash(entry, { onProgress: onBytes, signal })
          : await registry.knownHashes(entry);
        if (hashes === undefined) unread.push(entry);
        else hashed.push({ sha256: hashes.sha256, entry });
      } catch (error) {
        signal?.throwIfAborted();
        problems.push(`${entry.path}: ${error instanceof Error ? error.message : String(error)}`);
      }
      doneBytes += entry.sizeBytes;
      onProgress?.(doneBytes, totalBytes);
    }
    for (const [sha256, same] of groupBy(hashed, (file) => file.sha256)) {
      const [first] = same;
      if (first === undefined || same.length < 2) continue;
      const { sizeBytes } = first.entry;
      groups.push({
        sha256,
        sizeBytes,
        reclaimableBytes: sizeBytes * (same.length - 1),
        files: same.map(({ entry }) => entry),
      });
    }
  }
  groups.sort((a, b) => b.reclaimableBytes - a.reclaimableBytes);
  return { groups, reclaimableBytes: groups.reduce((sum, group) => sum + group.reclaimableBytes, 0), problems, unread };
}

/** Equal for files that may be equal, as far as their headers tell. */
function likeness({ sizeBytes, row }: ModelEntry): string {
  return [sizeBytes, row?.format, row?.tensorCount, row?.parameterCount, row?.dtype, row?.title].join('\0');
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [item]);
    else group.push(item);
  }
  return groups;
}
