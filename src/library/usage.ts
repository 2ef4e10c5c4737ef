/**
 * Which models were used, how often and when last: from the workflows in the pictures of the output folder, and from the
 * history of a running ComfyUI. Models that nobody used are told with the bytes that they hold.
 */
import { readdir, stat } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { throwIfAborted } from '../common/abort.js';
import { parseJson, type JsonValue } from '../protocol/json.js';
import type { ModelEntry } from '../registry/index.js';
import { resolveWorkflow } from './missing-models.js';
import { readPictureTexts } from './workflow-files.js';

export interface UsedWorkflow {
  /** A picture's path, or the id of a prompt. */
  readonly source: string;
  readonly usedAt: number;
  readonly workflow: JsonValue;
}

interface ModelUsage {
  readonly model: ModelEntry;
  readonly count: number;
  readonly lastUsed: number;
  /** The latest few. */
  readonly sources: readonly string[];
}

export interface Usage {
  readonly workflows: number;
  /** Most used first. */
  readonly used: readonly ModelUsage[];
  /** Listed by ComfyUI, and in no workflow; largest first. */
  readonly unused: readonly ModelEntry[];
  readonly unusedBytes: number;
  /** Names that workflows used and that are gone. */
  readonly gone: readonly { readonly name: string; readonly count: number }[];
}

const PICTURES: ReadonlySet<string> = new Set(['.png', '.webp']);
/** Pictures that are looked at, newest first. */
const MAX_PICTURES = 20_000;
const MAX_SOURCES = 5;
const PARALLEL = 8;

/** Workflows in the pictures below a folder, newest first. Pictures that cannot be read are left out. */
export async function findPictureWorkflows(folder: string, signal?: AbortSignal): Promise<UsedWorkflow[]> {
  const files: { path: string; usedAt: number }[] = [];
  let entries;
  try {
    entries = await readdir(folder, { recursive: true, withFileTypes: true });
  } catch {
    return []; // no output folder yet: nothing was made
  }
  for (const entry of entries) {
    if (!entry.isFile() || !PICTURES.has(extname(entry.name).toLowerCase())) continue;
    throwIfAborted(signal);
    const path = join(entry.parentPath, entry.name);
    try {
      files.push({ path, usedAt: (await stat(path)).mtimeMs });
    } catch {
      // It was removed meanwhile.
    }
  }
  files.sort((a, b) => b.usedAt - a.usedAt);
  const found: UsedWorkflow[] = [];
  for (let at = 0; at < Math.min(files.length, MAX_PICTURES); at += PARALLEL) {
    throwIfAborted(signal);
    const read = await Promise.all(files.slice(at, at + PARALLEL).map(readPicture));
    found.push(...read.filter((workflow) => workflow !== undefined));
  }
  return found;
}

async function readPicture({ path, usedAt }: { path: string; usedAt: number }): Promise<UsedWorkflow | undefined> {
  try {
    const texts = await readPictureTexts(path);
    const text = texts?.get('prompt') ?? texts?.get('workflow');
    return text === undefined ? undefined : { source: path, usedAt, workflow: parseJson(text) };
  } catch {
    return undefined;
  }
}

/** Counts the models of workflows. One workflow counts a model once. */
export function countUsage(workflows: readonly UsedWorkflow[], entries: readonly ModelEntry[]): Usage {
  const used = new Map<string, { model: ModelEntry; count: number; lastUsed: number; sources: string[] }>();
  const gone = new Map<string, number>();
  let counted = 0;
  for (const { source, usedAt, workflow } of workflows) {
    let references;
    try {
      ({ references } = resolveWorkflow(workflow, entries));
    } catch {
      continue; // a picture of another program
    }
    counted += 1;
    const seen = new Set<string>();
    for (const { name, file } of references) {
      const key = file?.file ?? name;
      if (seen.has(key)) continue;
      seen.add(key);
      if (file === undefined) {
        gone.set(name, (gone.get(name) ?? 0) + 1);
        continue;
      }
      const known = used.get(key) ?? { model: file, count: 0, lastUsed: 0, sources: [] };
      known.count += 1;
      known.lastUsed = Math.max(known.lastUsed, usedAt);
      if (known.sources.length < MAX_SOURCES) known.sources.push(source);
      used.set(key, known);
    }
  }
  const unused = new Map<string, ModelEntry>();
  for (const entry of entries) {
    if (entry.listedByComfyUI && !used.has(entry.file) && !unused.has(entry.file)) unused.set(entry.file, entry);
  }
  return {
    workflows: counted,
    used: [...used.values()].sort((a, b) => b.count - a.count || b.lastUsed - a.lastUsed),
    unused: [...unused.values()].sort((a, b) => b.sizeBytes - a.sizeBytes),
    unusedBytes: [...unused.values()].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    gone: [...gone].map(([name, count]) => ({ name, count })).sort((a, b) => b.count - a.count),
  };
}
