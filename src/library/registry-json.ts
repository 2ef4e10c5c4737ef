/** Models, pairs, issues and references as JSON: one form for HTTP, the command line and the nodes. */
import type { Jsonable } from '../protocol/json.js';
import {
  MODEL_FIELDS,
  type Duplicates,
  type ModelEntry,
  type ModelHashes,
  type ModelReading,
  type ModelRegistry,
  type ModelStats,
  type ValueCheck,
} from '../registry/index.js';
import type { HealthIssue } from './health.js';
import type { MissingModels } from './missing-models.js';
import type { Pairing } from './pairing.js';
import type { TrackedUsage } from './usage-tracker.js';

/** What a listing shows where nothing else is asked for. */
export const DEFAULT_FIELDS = [
  'folder',
  'name',
  'kind',
  'base',
  'size',
  'dtype',
  'parameters',
  'status',
  'path',
] as const;

/** Chosen fields of a file; unknown values are null. */
export function modelJson(entry: ModelEntry, fields: readonly string[] = DEFAULT_FIELDS): Record<string, Jsonable> {
  return Object.fromEntries(fields.map((field) => [field, MODEL_FIELDS[field]?.(entry) ?? null]));
}

/** Everything that is known of a model, without reading it. */
export async function modelDetailsJson(registry: ModelRegistry, entry: ModelEntry): Promise<Record<string, Jsonable>> {
  const details = await registry.details(entry);
  const hashes = entry.shards === undefined ? await registry.knownHashes(entry) : undefined;
  const values = await registry.contents.knownValues(entry);
  const { beside, shards } = entry;
  return {
    ...modelJson(entry, Object.keys(MODEL_FIELDS)),
    details: (details ?? null) as Jsonable,
    hashes: hashes === undefined ? null : hashesJson(hashes, entry, details),
    values: values === undefined ? null : valuesJson(values),
    claims: beside === undefined ? null : { ...beside.claims },
    ...(shards === undefined ? {} : { files: shards.parts.map(({ path }) => path), index: shards.index ?? null }),
  };
}

/** Hashes, and whether what is written in the file and beside it agrees with them. */
export function hashesJson(
  hashes: ModelHashes,
  { beside }: ModelEntry,
  details: ModelReading | undefined,
): Record<string, Jsonable> {
  const embedded = details?.facts?.autoV3Embedded;
  const claims = Object.entries(beside?.claims.hashes ?? {});
  const own = new Map(Object.entries(hashes).map(([name, value]) => [name, String(value).toLowerCase()]));
  // Civitai's AutoV3 is the embedded one, which survives what changes the bytes.
  const agrees = ([name, value]: [string, string]): boolean =>
    own.get(name) === value || (name === 'autoV3' && embedded?.startsWith(value) === true);
  return {
    ...hashes,
    ...(embedded === undefined ? {} : { autoV3Embedded: embedded, autoV3Agrees: embedded === hashes.autoV3 }),
    ...(claims.length === 0 ? {} : { claimed: Object.fromEntries(claims), claimsAgree: claims.every(agrees) }),
  };
}

export function valuesJson(check: ValueCheck): Record<string, Jsonable> {
  return { ...check, tensors: check.tensors.map((tensor) => ({ ...tensor })), unchecked: { ...check.unchecked } };
}

export function statsJson({ by, groups, total }: ModelStats): Record<string, Jsonable> {
  return { by, groups: groups.map((group) => ({ ...group })), total: { ...total } };
}

export function duplicatesJson({ groups, reclaimableBytes, problems, unread }: Duplicates): Record<string, Jsonable> {
  return {
    reclaimableBytes,
    groups: groups.map((group) => ({
      sha256: group.sha256,
      sizeBytes: group.sizeBytes,
      reclaimableBytes: group.reclaimableBytes,
      files: group.files.map(({ path }) => path),
    })),
    problems,
    unread: unread.map(({ path }) => path),
  };
}

export function pairingJson({ adapter, need, matches, mismatches, advice }: Pairing): Record<string, Jsonable> {
  return {
    adapter: modelJson(adapter, ['folder', 'name', 'path', 'variant', 'base']),
    needs: { ...need },
    matches: matches.map((entry) => modelJson(entry, ['folder', 'name', 'path', 'encoder'])),
    mismatches: mismatches.map(({ file, reason }) => ({ path: file.path, reason })),
    advice,
  };
}

export function issueJson(issue: HealthIssue): Record<string, Jsonable> {
  return { ...issue };
}

export function missingJson({
  references,
  missing,
  renamed,
  misplaced,
  broken,
  repaired,
}: MissingModels): Record<string, Jsonable> {
  return {
    missing,
    renamed,
    misplaced,
    broken,
    references: references.map(
      ({ nodeId, nodeType, name, folder, status, file, replacement, alternatives, problem }) => ({
        nodeId,
        nodeType,
        name,
        folder: folder ?? null,
        status,
        path: file?.path ?? null,
        problem: problem ?? null,
        replacement: replacement ?? null,
        alternatives: alternatives.map(({ path }) => path),
      }),
    ),
    repaired,
  };
}

export function usageJson(usage: TrackedUsage): Record<string, Jsonable> {
  const { runs, used, unused, unusedBytes, gone, outputDirectory, comfyuiUrl, problems } = usage;
  return {
    runs,
    outputDirectory,
    comfyuiUrl: comfyuiUrl ?? null,
    problems,
    used: used.map(({ model, count, lastUsedMs, sources, workflowIds }) => ({
      ...modelJson(model, ['folder', 'name', 'size', 'path']),
      count,
      lastUsed: new Date(lastUsedMs).toISOString(),
      sources,
      workflowIds,
    })),
    unusedBytes,
    unused: unused.map((entry) => modelJson(entry, ['folder', 'name', 'size', 'path'])),
    gone: gone.map((entry) => ({ ...entry })),
  };
}
