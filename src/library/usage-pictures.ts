/** Workflows in the pictures of the output folder, as runs. */
import { readdir, stat } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { throwIfAborted } from '../common/abort.js';
import { stampKey, stampOf } from '../formats/index.js';
import { isJsonObject, parseJson } from '../protocol/json.js';
import { describeRun, type UsageRun } from './usage.js';
import { readPictureTexts } from './workflow-files.js';
import { isWorkflow } from './workflow-references.js';

export interface PictureFile {
  readonly path: string;
  readonly modifiedMs: number;
  /** Its state: a picture that was looked at is not looked at again. */
  readonly key: string;
}

const PICTURES: ReadonlySet<string> = new Set(['.png', '.webp']);
/** Pictures of one look, newest first. */
const MAX_PICTURES = 100_000;
const STATS_AT_ONCE = 64;

/** Pictures below a folder, newest first. */
export async function listPictures(folder: string, signal?: AbortSignal): Promise<PictureFile[]> {
  let entries;
  try {
    entries = await readdir(folder, { recursive: true, withFileTypes: true });
  } catch {
    return []; // no output folder yet: nothing was made
  }
  const paths = entries
    .filter((entry) => entry.isFile() && PICTURES.has(extname(entry.name).toLowerCase()))
    .map(({ parentPath, name }) => join(parentPath, name));
  const files: PictureFile[] = [];
  for (let at = 0; at < paths.length; at += STATS_AT_ONCE) {
    throwIfAborted(signal);
    const batch = paths.slice(at, at + STATS_AT_ONCE);
    const stats = await Promise.all(batch.map((path) => stat(path).catch(() => undefined)));
    batch.forEach((path, i) => {
      const found = stats[i];
      // Absent: it was removed meanwhile.
      if (found !== undefined) files.push({ path, modifiedMs: found.mtimeMs, key: stampKey(stampOf(found)) });
    });
  }
  return files.sort((a, b) => b.modifiedMs - a.modifiedMs).slice(0, MAX_PICTURES);
}

/** The run that made a picture; undefined for one without a workflow, or of another program. */
export async function readPictureRun({ path, modifiedMs }: PictureFile): Promise<UsageRun | undefined> {
  try {
    const texts = await readPictureTexts(path);
    const text = texts?.get('prompt') ?? texts?.get('workflow');
    if (text === undefined) return undefined;
    const workflow = parseJson(text);
    if (!isWorkflow(workflow)) return undefined;
    const workflowId = idOf(texts?.get('workflow'));
    return {
      source: path,
      usedAtMs: modifiedMs,
      ...describeRun(workflow),
      ...(workflowId === undefined ? {} : { workflowId }),
    };
  } catch {
    return undefined;
  }
}

function idOf(workflow: string | undefined): string | undefined {
  if (workflow === undefined) return undefined;
  try {
    const value = parseJson(workflow);
    const id = isJsonObject(value) ? value.get('id') : undefined;
    return typeof id === 'string' ? id.slice(0, 200) : undefined;
  } catch {
    return undefined;
  }
}
