/** What is wrong with the user's model files, as far as headers and places tell, and what to do about each. */
import { basename, dirname } from 'node:path';
import { isSameFamily, type ModelEntry, type ModelKind, type ModelRegistry } from '../registry/index.js';

export interface HealthIssue {
  readonly kind:
    | 'incomplete'
    | 'invalid'
    | 'unreadable'
    | 'dangerous'
    | 'not-a-number'
    | 'unsupported'
    | 'wrong-folder'
    | 'shadowed'
    | 'sidecar'
    | 'root';
  readonly severity: 'error' | 'warning';
  readonly path: string;
  readonly problem: string;
  readonly fix: string;
}

/** Folder names in which a kind works. Kinds and folders that are not here are nobody's business. */
const PLACES: Readonly<Partial<Record<ModelKind, readonly string[]>>> = {
  checkpoint: ['checkpoints', 'diffusion_models', 'unet'],
  diffusion_model: ['diffusion_models', 'unet', 'unet_gguf', 'checkpoints'],
  lora: ['loras'],
  vae: ['vae'],
  vae_approx: ['vae_approx'],
  text_encoder: ['text_encoders', 'clip', 'clip_gguf'],
  clip_vision: ['clip_vision'],
  controlnet: ['controlnet', 't2i_adapter', 'model_patches'],
  ipadapter: ['ipadapter'],
  embedding: ['embeddings'],
  upscaler: ['upscale_models'],
  style_model: ['style_models'],
  gligen: ['gligen'],
  photomaker: ['photomaker'],
};
/** ComfyUI's folder names whose loaders read only their own kind. */
const STRICT: ReadonlySet<string> = new Set(Object.values(PLACES).flat());

const BROKEN_FIXES = {
  incomplete: 'Download it again, or finish the download.',
  invalid: 'Download it again.',
  unreadable: 'Look at its permissions and whether its disk is there.',
} as const;

export function findIssues(registry: ModelRegistry): HealthIssue[] {
  const issues: HealthIssue[] = [];
  for (const { path, status, problems } of registry.rootStates) {
    if (status === 'unavailable') {
      issues.push({
        kind: 'root',
        severity: 'error',
        path,
        problem: problems.join('; '),
        fix: 'Is its disk or share there?',
      });
    } else {
      for (const problem of problems) {
        issues.push({
          kind: 'root',
          severity: 'warning',
          path,
          problem,
          fix: 'Remove it, or repair what it leads to.',
        });
      }
    }
  }
  const seen = new Set<string>();
  for (const entry of registry.entries()) {
    if (entry.shadowedBy !== undefined) {
      issues.push({
        kind: 'shadowed',
        severity: 'warning',
        path: entry.path,
        problem: `ComfyUI opens ${entry.shadowedBy} instead: it has the same name in an earlier folder`,
        fix: 'Rename one of the two.',
      });
    }
    if (seen.has(entry.path)) continue;
    seen.add(entry.path);
    issues.push(...issuesOf(entry));
  }
  issues.push(...indexIssues(registry));
  return issues;
}

/** Tables of models in several files that lead to none. */
function indexIssues(registry: ModelRegistry): HealthIssue[] {
  const present = new Set(registry.files().map(({ path }) => path));
  return registry.shardIndexes.flatMap(({ path, files, problem }): HealthIssue[] => {
    const isEmpty = files.length > 0 && !files.some((name) => present.has(`${dirname(path)}/${name}`));
    if (problem === undefined && !isEmpty) return [];
    return [
      {
        kind: isEmpty ? 'incomplete' : 'invalid',
        severity: 'warning',
        path,
        problem: problem ?? `none of the ${files.length} files that it names is beside it: ${files[0] ?? ''}, …`,
        fix: 'Download the model again, all of its files into one folder; or delete this one.',
      },
    ];
  });
}

function issuesOf(entry: ModelEntry): HealthIssue[] {
  const { row, path, folder } = entry;
  if (row === undefined) return [];
  const issues: HealthIssue[] = [];
  if (row.status !== 'ok') {
    const isPart = (entry.shards?.missing.length ?? 0) > 0;
    const fix = isPart ? `Download what is missing into ${dirname(path)}.` : BROKEN_FIXES[row.status];
    issues.push({ kind: row.status, severity: 'error', path, problem: row.problem ?? 'it cannot be read', fix });
  }
  if (row.verdict === 'dangerous') {
    issues.push({
      kind: 'dangerous',
      severity: 'error',
      path,
      problem: `its pickle would run commands when it is loaded: it imports ${row.dangerous?.join(', ') ?? 'what runs them'}`,
      fix: 'Delete it. If you loaded it, treat this machine as compromised.',
    });
  }
  const claimed = entry.beside?.claims.baseModel;
  if (claimed !== undefined && row.baseModel !== undefined && !isSameFamily(claimed, row.baseModel)) {
    const source = entry.beside?.baseModelSource ?? '';
    issues.push({
      kind: 'sidecar',
      severity: 'warning',
      path,
      problem: `${source} says that it is for ${claimed}, but its tensors are those of ${row.baseModel}`,
      fix: `Go by ${row.baseModel}. Was ${basename(path)} replaced, and ${source} left as it was?`,
    });
  }
  const places = row.kind === undefined ? undefined : PLACES[row.kind];
  if (places !== undefined && !places.includes(folder) && STRICT.has(folder)) {
    issues.push({
      kind: 'wrong-folder',
      severity: 'warning',
      path,
      problem: `it is of the kind ${row.kind ?? ''}, but lies in ${folder}`,
      fix: `Move it into models/${places[0] ?? ''}.`,
    });
  }
  return issues;
}
