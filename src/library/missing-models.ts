/**
 * Which models a workflow needs, which of them are there, under another name or in another folder, and the workflow as
 * it would run here.
 */
import type { JsonValue } from '../protocol/json.js';
import type { ModelEntry } from '../registry/index.js';
import { findReferences, placeKey, replaceTexts, type ModelReference } from './workflow-references.js';

interface Resolution {
  /**
   * `renamed`: there, under another name of the same folder; `misplaced`: there, but in a folder that the node does not
   * look in; `missing`: nowhere.
   */
  readonly status: 'found' | 'renamed' | 'misplaced' | 'missing';
  /** Why the file cannot be used, where it is broken. */
  readonly problem?: string;
  /** The file, or the best of the candidates. */
  readonly file?: ModelEntry;
  /** What to write in place of the name. */
  readonly replacement?: string;
  /** Others that are as good. */
  readonly alternatives: readonly ModelEntry[];
}

type ResolvedReference = ModelReference & Resolution;

export interface MissingModels {
  readonly references: readonly ResolvedReference[];
  readonly missing: number;
  readonly renamed: number;
  readonly misplaced: number;
  /** Of those that are there, whatever their name or folder. */
  readonly broken: number;
  /** The workflow with the names that fit here. */
  readonly repaired: JsonValue;
}

/** Looks up every reference of a workflow among the user's files. @throws {InvalidRequestError} */
export function resolveWorkflow(workflow: JsonValue, entries: readonly ModelEntry[]): MissingModels {
  const names = new NameIndex(entries);
  const references = findReferences(workflow).map((reference) => withProblem(names.resolve(reference)));
  const replacements = new Map<string, (text: string) => string>();
  for (const { place, name, replacement } of references) {
    if (replacement === undefined) continue;
    const key = placeKey(place);
    const before = replacements.get(key);
    replacements.set(key, (text) => (before?.(text) ?? text).replaceAll(name, replacement));
  }
  const count = (status: ResolvedReference['status']): number =>
    references.filter((reference) => reference.status === status).length;
  return {
    references,
    missing: count('missing'),
    renamed: count('renamed'),
    misplaced: count('misplaced'),
    broken: references.filter(({ problem }) => problem !== undefined).length,
    repaired: replaceTexts(workflow, replacements),
  };
}

function withProblem(reference: ResolvedReference): ResolvedReference {
  const { status = 'ok', problem = status } = reference.file?.row ?? {};
  return status === 'ok' ? reference : { ...reference, problem };
}

/** The user's files by what workflows call them. */
export class NameIndex {
  /** By folder and name, with `/`, as ComfyUI lists it. */
  readonly #exact = new Map<string, ModelEntry>();
  /** By what is left of the file's own name without what people change. */
  readonly #alike = new Map<string, ModelEntry[]>();

  constructor(entries: readonly ModelEntry[]) {
    for (const entry of entries) {
      // Any part of a model in several files is a name for it.
      for (const { name } of entry.shards?.parts ?? [entry]) {
        if (entry.shadowedBy === undefined) this.#exact.set(`${entry.folder}\0${name}`, entry);
        const key = likeness(name);
        const alike = this.#alike.get(key);
        if (alike === undefined) this.#alike.set(key, [entry]);
        else alike.push(entry);
      }
    }
  }

  resolve<R extends Pick<ModelReference, 'name' | 'folder'>>(reference: R): R & Resolution {
    const { folder } = reference;
    const name = reference.name.trim().replaceAll('\\', '/');
    const exact = folder === undefined ? undefined : this.#find(folder, name);
    if (exact !== undefined) return { ...reference, status: 'found', file: exact, alternatives: [] };
    const alike = [...(this.#alike.get(likeness(name)) ?? [])].sort((a, b) => closeness(name, b) - closeness(name, a));
    if (folder === undefined) {
      const same = alike.find((entry) => entry.name === name);
      if (same !== undefined) return { ...reference, status: 'found', file: same, alternatives: [] };
    }
    const here = alike.filter((entry) => folder === undefined || entry.folder === folder);
    const [best, ...others] = here.length > 0 ? here : alike;
    if (best === undefined) return { ...reference, status: 'missing', alternatives: [] };
    if (here.length === 0) return { ...reference, status: 'misplaced', file: best, alternatives: others };
    const replacement = folder === 'embeddings' && !/\.\w+$/.test(name) ? withoutEnding(best.name) : best.name;
    return { ...reference, status: 'renamed', file: best, replacement, alternatives: others };
  }

  #find(folder: string, name: string): ModelEntry | undefined {
    const found = this.#exact.get(`${folder}\0${name}`);
    if (found !== undefined || folder !== 'embeddings') return found;
    // Prompts name embeddings without their ending.
    for (const ending of ['.safetensors', '.pt', '.bin']) {
      const entry = this.#exact.get(`${folder}\0${name}${ending}`);
      if (entry !== undefined) return entry;
    }
    return undefined;
  }
}

function baseName(name: string): string {
  return name.slice(name.lastIndexOf('/') + 1);
}

function withoutEnding(name: string): string {
  return name.replace(/\.[^./]+$/, '');
}

/** Letters and digits of a file's own name: folders, case, separators and endings are what people change. */
function likeness(name: string): string {
  return withoutEnding(baseName(name))
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}]/gu, '');
}

/** Same ending and same spelling count; so do folders that both names have. */
function closeness(name: string, entry: ModelEntry): number {
  const folders = new Set(name.toLowerCase().split('/').slice(0, -1));
  return (
    (baseName(name) === baseName(entry.name) ? 4 : 0) +
    (name.split('.').pop() === entry.name.split('.').pop() ? 2 : 0) +
    (entry.listedByComfyUI ? 1 : 0) +
    entry.name
      .toLowerCase()
      .split('/')
      .slice(0, -1)
      .filter((folder) => folders.has(folder)).length
  );
}
