/**
 * The table of statistics: what is counted, and by what files are grouped. HTTP, the command line and the nodes iterate
 * it; a new statistic is a new entry.
 *
 * A file with several names (links, hard links, two folder types over one folder) counts once per group, and once in the
 * total.
 */
import { dirname, extname } from 'node:path';
import type { StatGrouping } from '../protocol/registry.js';
import { baseOf } from './query.js';
import type { ModelEntry } from './entry.js';

interface Stat {
  readonly label: string;
  readonly unit: 'files' | 'bytes' | 'parameters';
  readonly compute: (entry: ModelEntry) => number;
}

/** Sums over the files of a group. */
export const STATS = {
  files: { label: 'files', unit: 'files', compute: () => 1 },
  sizeBytes: { label: 'size', unit: 'bytes', compute: ({ sizeBytes }) => sizeBytes },
  sizeOnDisk: { label: 'on disk', unit: 'bytes', compute: ({ sizeOnDisk }) => sizeOnDisk },
  parameters: { label: 'parameters', unit: 'parameters', compute: ({ row }) => row?.parameterCount ?? 0 },
  broken: {
    label: 'broken',
    unit: 'files',
    compute: ({ row }) => (row === undefined || row.status === 'ok' ? 0 : 1),
  },
  dangerous: { label: 'dangerous', unit: 'files', compute: ({ row }) => (row?.verdict === 'dangerous' ? 1 : 0) },
  unlisted: {
    label: 'not listed by ComfyUI',
    unit: 'files',
    compute: ({ listedByComfyUI }) => (listedByComfyUI ? 0 : 1),
  },
} as const satisfies Record<string, Stat>;

export type StatName = keyof typeof STATS;
type StatSums = Readonly<Record<StatName, number>>;

/** What a file is grouped by. */
const GROUPINGS = {
  folder: ({ folder }) => folder,
  kind: ({ row }) => row?.kind ?? 'unknown',
  base: (entry) => baseOf(entry) ?? 'unknown',
  dtype: ({ row }) => row?.dtype ?? 'unknown',
  directory: ({ path }) => dirname(path),
  extension: ({ name }) => extname(name).toLowerCase(),
  format: ({ row }) => row?.format ?? 'unknown',
  status: ({ row }) => row?.status ?? 'pending',
} as const satisfies Record<StatGrouping, (entry: ModelEntry) => string>;

export type Grouping = StatGrouping;

interface StatGroup extends StatSums {
  readonly group: string;
}

export interface ModelStats {
  readonly by: Grouping;
  /** Largest first. */
  readonly groups: readonly StatGroup[];
  readonly total: StatSums;
}

const NAMES = Object.keys(STATS) as StatName[];

/** Adds up files, once each. */
export function computeStats(entries: readonly ModelEntry[], by: Grouping): ModelStats {
  const groupOf = GROUPINGS[by];
  const repeated = filesOfSeveralEntries(entries);
  const groups = new Map<string, StatAccumulator>();
  const seen = new Set<string>();
  const total = emptySums();
  for (const entry of entries) {
    const name = groupOf(entry);
    let group = groups.get(name);
    if (group === undefined) {
      group = { sums: emptySums(), seen: new Set() };
      groups.set(name, group);
    }
    // Most files have one entry, and need no look into sets of names.
    if (!repeated.has(entry.file)) {
      add(group.sums, entry);
      add(total, entry);
      continue;
    }
    if (!group.seen.has(entry.file)) add(group.sums, entry);
    group.seen.add(entry.file);
    if (!seen.has(entry.file)) add(total, entry);
    seen.add(entry.file);
  }
  const sorted = [...groups]
    .map(([group, { sums }]): StatGroup => ({ group, ...sums }))
    .sort((a, b) => b.sizeBytes - a.sizeBytes || (a.group < b.group ? -1 : 1));
  return { by, groups: sorted, total };
}

interface StatAccumulator {
  readonly sums: Record<StatName, number>;
  /** Of the files that several entries name, those that are counted. */
  readonly seen: Set<string>;
}

const repeatedOf = new WeakMap<readonly ModelEntry[], ReadonlySet<string>>();

/** Files with several names: links, hard links, folders of several types. Found once for all groupings. */
function filesOfSeveralEntries(entries: readonly ModelEntry[]): ReadonlySet<string> {
  const known = repeatedOf.get(entries);
  if (known !== undefined) return known;
  const seen = new Set<string>();
  const repeated = new Set<string>();
  for (const { file } of entries) {
    if (seen.has(file)) repeated.add(file);
    else seen.add(file);
  }
  repeatedOf.set(entries, repeated);
  return repeated;
}

function emptySums(): Record<StatName, number> {
  return Object.fromEntries(NAMES.map((name) => [name, 0])) as Record<StatName, number>;
}

function add(sums: Record<StatName, number>, entry: ModelEntry): void {
  for (const name of NAMES) sums[name] += STATS[name].compute(entry);
}
