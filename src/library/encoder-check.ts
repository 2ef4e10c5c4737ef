/** Files of the encoders' folder that no loader takes, found by reading their headers. */
import { ModelFormatError } from '../common/errors.js';
import { throwIfAborted } from '../common/abort.js';
import { readModelHeader } from '../formats/index.js';
import type { ModelEntry } from '../registry/index.js';
import { resolveVisionModel } from '../vision/index.js';
import type { HealthIssue } from './health.js';

const FOLDER = 'clip_vision';
/** Of other formats, loaders of other packages may make something. */
const FORMATS: ReadonlySet<string | undefined> = new Set(['safetensors', 'pickle-zip', 'pickle-legacy']);

/** Tells of each file that neither ComfyUI nor we load as a vision encoder, and why. Those of another kind are misplaced. */
export async function findEncoderIssues(entries: readonly ModelEntry[], signal?: AbortSignal): Promise<HealthIssue[]> {
  const issues: HealthIssue[] = [];
  const seen = new Set<string>();
  for (const { folder, path, row, shards } of entries) {
    const isEncoder = row?.kind === undefined || row.kind === 'clip_vision';
    if (folder !== FOLDER || row?.status !== 'ok' || !FORMATS.has(row.format) || !isEncoder || seen.has(path)) continue;
    if (shards !== undefined) continue; // a part says nothing of the whole
    seen.add(path);
    throwIfAborted(signal);
    try {
      resolveVisionModel(await readModelHeader(path, signal === undefined ? {} : { signal }));
    } catch (error) {
      // What became of it since the scan, the next scan tells.
      if (!(error instanceof ModelFormatError)) continue;
      issues.push({
        kind: 'unsupported',
        severity: 'warning',
        path,
        problem: error.message.replace(/\.$/, ''),
        fix: 'Use a file of an encoder that is supported, or delete this one if nothing else needs it.',
      });
    }
  }
  return issues;
}
