/**
 * Which models were used, how often, when last and by what. Models that nobody used are told with the bytes that they hold.
 *
 * Names are looked up when it is asked, so that a model that was renamed since keeps its uses.
 */
import { createHash } from 'node:crypto';
import { isJsonObject, writeJson, type JsonValue } from '../protocol/json.js';
import type { ModelEntry } from '../registry/index.js';
import { NameIndex } from './missing-models.js';
import { findReferences, isWorkflow } from './workflow-references.js';

/** One run of a workflow: what it named. */
export interface UsageRun {
  /** `prompt` and its id, or the path of a picture. */
  readonly source: string;
  readonly usedAtMs: number;
  /** Equal for equal graphs: the pictures of a batch, and the prompt that made them. */
  readonly digest: string;
  /** The user interface's id of the workflow. */
  readonly workflowId?: string;
  /** Names of models as the workflow writes them, with the folder that they are looked for in (empty: unknown). */
  readonly names: readonly (readonly [name: string, folder: string])[];
}

interface ModelUsage {
  readonly model: ModelEntry;
  /** Runs; one counts a model once. */
  readonly count: number;
  readonly lastUsedMs: number;
  /** The latest few runs. */
  readonly sources: readonly string[];
  /** Ids of the workflows, as far as they are known. */
  readonly workflowIds: readonly string[];
}

export interface Usage {
  /** Runs that were counted. */
  readonly runs: number;
  /** Most used first. */
  readonly used: readonly ModelUsage[];
  /** Listed by ComfyUI, and in no run; largest first. */
  readonly unused: readonly ModelEntry[];
  readonly unusedBytes: number;
  /** Names that runs used and that are gone. */
  readonly gone: readonly { readonly name: string; readonly count: number }[];
}

const MAX_SOURCES = 5;
const MAX_WORKFLOWS = 20;
const MAX_NAME = 1000;

/** What a workflow of either form names; nothing, where it is none. */
export function describeRun(workflow: JsonValue): Pick<UsageRun, 'digest' | 'names'> {
  const names = new Map<string, readonly [string, string]>();
  for (const { name, folder = '' } of isWorkflow(workflow) ? findReferences(workflow) : [])
    if (name.length <= MAX_NAME) names.set(`${folder}\0${name}`, [name, folder]);
  return { digest: digestOf(workflow), names: [...names.values()] };
}

/** Of what runs: class and inputs of every node. What ComfyUI adds to a node for itself does not count. */
function digestOf(workflow: JsonValue): string {
  const nodes = isJsonObject(workflow) ? [...workflow] : [];
  const graph = nodes.flatMap(([id, node]): [string, JsonValue][] => {
    const [type, inputs] = isJsonObject(node) ? [node.get('class_type'), node.get('inputs')] : [];
    return type === undefined ? [] : [[id, [type, inputs ?? null]]];
  });
  graph.sort(([a], [b]) => (a < b ? -1 : 1));
  const text = writeJson(graph.length > 0 ? new Map(graph) : workflow);
  return createHash('sha256').update(text).digest('hex').slice(0, 32);
}

/** Counts runs. A picture is not counted beside the prompt that made it. */
export function countUsage(runs: Iterable<UsageRun>, entries: readonly ModelEntry[]): Usage {
  const all = [...runs];
  const prompts = new Set(all.filter(isPrompt).map(({ digest }) => digest));
  const counted = all
    .filter((run) => isPrompt(run) || !prompts.has(run.digest))
    .sort((a, b) => b.usedAtMs - a.usedAtMs);
  const names = new NameIndex(entries);
  const resolved = new Map<string, ModelEntry | undefined>();
  const used = new Map<string, { -readonly [K in keyof ModelUsage]: ModelUsage[K] }>();
  const gone = new Map<string, number>();
  for (const run of counted) {
    const seen = new Set<string>();
    for (const [name, folder] of run.names) {
      const at = `${folder}\0${name}`;
      if (!resolved.has(at)) resolved.set(at, names.resolve({ name, folder: folder === '' ? undefined : folder }).file);
      const model = resolved.get(at);
      const key = model?.file ?? name;
      if (seen.has(key)) continue;
      seen.add(key);
      if (model === undefined) gone.set(name, (gone.get(name) ?? 0) + 1);
      else used.set(key, withRun(used.get(key), model, run));
    }
  }
  const unused = new Map<string, ModelEntry>();
  for (const entry of entries)
    if (entry.listedByComfyUI && !used.has(entry.file) && !unused.has(entry.file)) unused.set(entry.file, entry);
  return {
    runs: counted.length,
    used: [...used.values()].sort((a, b) => b.count - a.count || b.lastUsedMs - a.lastUsedMs),
    unused: [...unused.values()].sort((a, b) => b.sizeBytes - a.sizeBytes),
    unusedBytes: [...unused.values()].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    gone: [...gone].map(([name, count]) => ({ name, count })).sort((a, b) => b.count - a.count),
  };
}

function isPrompt({ source }: UsageRun): boolean {
  return source.startsWith('prompt ');
}

function withRun(known: ModelUsage | undefined, model: ModelEntry, run: UsageRun): ModelUsage {
  const { count = 0, lastUsedMs = 0, sources = [], workflowIds = [] } = known ?? {};
  const { workflowId } = run;
  const isNew = workflowId !== undefined && workflowIds.length < MAX_WORKFLOWS && !workflowIds.includes(workflowId);
  return {
    model,
    count: count + 1,
    lastUsedMs: Math.max(lastUsedMs, run.usedAtMs),
    sources: sources.length < MAX_SOURCES ? [...sources, run.source] : sources,
    workflowIds: isNew ? [...workflowIds, workflowId] : workflowIds,
  };
}
