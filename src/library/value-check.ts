/** Models with values that are no numbers, found by reading them whole. */
import { messageOf } from '../common/errors.js';
import type { ModelEntry, ModelRegistry, ValueCheck } from '../registry/index.js';
import type { HealthIssue } from './health.js';

export interface ValueCheckOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

const NAMED = 3;

/** Reads all these models, one after the other; what was read before is not read again. */
export async function findValueIssues(
  registry: ModelRegistry,
  entries: readonly ModelEntry[],
  { signal, onProgress }: ValueCheckOptions = {},
): Promise<HealthIssue[]> {
  const files = new Map<string, ModelEntry>();
  for (const entry of entries)
    if (entry.row?.status === 'ok' && entry.row.format !== 'onnx' && !files.has(entry.file))
      files.set(entry.file, entry);
  const total = [...files.values()].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const issues: HealthIssue[] = [];
  let done = 0;
  for (const entry of files.values()) {
    const before = done;
    try {
      const check = await registry.contents.checkValues(entry, {
        signal,
        onProgress: (bytes) => onProgress?.(before + bytes, total),
      });
      if (check.badTensors > 0) issues.push(issueOf(entry, check));
    } catch (error) {
      signal?.throwIfAborted();
      issues.push({
        kind: 'unreadable',
        severity: 'warning',
        path: entry.path,
        problem: `its values were not checked: ${messageOf(error)}`,
        fix: 'Look at its permissions and whether its disk is there.',
      });
    }
    done += entry.sizeBytes;
    onProgress?.(done, total);
  }
  return issues;
}

function issueOf(
  { path }: ModelEntry,
  { nan, infinite, badTensors, checkedTensors, tensors }: ValueCheck,
): HealthIssue {
  const named = tensors.slice(0, NAMED).map((tensor) => `${tensor.name} (${amounts(tensor)})`);
  const more = badTensors > NAMED ? `, and ${badTensors - NAMED} more` : '';
  return {
    kind: 'not-a-number',
    severity: 'error',
    path,
    problem: `${amounts({ nan, infinite })} in ${badTensors} of ${checkedTensors} tensors: ${named.join(', ')}${more}`,
    fix: 'Download it again. If it stays so, it was saved broken, as merges and trainings are that diverged: black pictures come of it.',
  };
}

function amounts({ nan, infinite }: { readonly nan: number; readonly infinite: number }): string {
  return [nan > 0 ? `${nan} NaN` : [], infinite > 0 ? `${infinite} infinite` : []].flat().join(', ');
}
