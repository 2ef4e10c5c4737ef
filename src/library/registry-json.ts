/** Models, pairs, issues and references as JSON: one form for HTTP, the command line and the nodes. */
import type { Jsonable } from '../protocol/json.js';
import { MODEL_FIELDS, type Duplicates, type ModelEntry, type ModelStats } from '../registry/index.js';
import type { HealthIssue } from './health.js';
import type { MissingModels } from './missing-models.js';
import type { Pairing } from './pairing.js';
import type { Usage } from './usage.js';

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

export function statsJson({ by, groups, total }: ModelStats): Record<string, Jsonable> {
  return { by, groups: groups.map((group) => ({ ...group })), total: { ...total } };
}

export function duplicatesJson({ groups, reclaimableBytes, problems }: Duplicates): Record<string, Jsonable> {
  return {
    reclaimableBytes,
    groups: groups.map((group) => ({
      sha256: group.sha256,
      sizeBytes: group.sizeBytes,
      reclaimableBytes: group.reclaimableBytes,
      files: group.files.map(({ path }) => path),
    })),
    problems,
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
  repaired,
}: MissingModels): Record<string, Jsonable> {
  return {
    missing,
    renamed,
    misplaced,
    references: references.map(({ nodeId, nodeType, name, folder, status, file, replacement, alternatives }) => ({
      nodeId,
      nodeType,
      name,
      folder: folder ?? null,
      status,
      path: file?.path ?? null,
      replacement: replacement ?? null,
      alternatives: alternatives.map(({ path }) => path),
    })),
    repaired,
  };
}

export function usageJson({ workflows, used, unused, unusedBytes, gone }: Usage): Record<string, Jsonable> {
  return {
    workflows,
    used: used.map(({ model, count, lastUsed, sources }) => ({
      ...modelJson(model, ['folder', 'name', 'size']),
      count,
      lastUsed: new Date(lastUsed).toISOString(),
      sources,
    })),
    unusedBytes,
    unused: unused.map((entry) => modelJson(entry, ['folder', 'name', 'size', 'path'])),
    gone: gone.map((entry) => ({ ...entry })),
  };
}
