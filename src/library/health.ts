/** What is wrong with the user's model files, as far as headers and places tell, and what to do about each. */
import type { ModelEntry, ModelKind, ModelRegistry } from '../registry/index.js';

export interface HealthIssue {
  readonly kind:
    'incomplete' | 'invalid' | 'unreadable' | 'dangerous' | 'wrong-folder' | 'shadowed' | 'root' | 'warning';
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
          fix: 'Remove the link, or repair its target.',
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
  return issues;
}

function issuesOf(entry: ModelEntry): HealthIssue[] {
  const { row, path, folder } = entry;
  if (row === undefined) return [];
  const issues: HealthIssue[] = [];
  if (row.status !== 'ok') {
    const fix = BROKEN_FIXES[row.status];
    issues.push({ kind: row.status, severity: 'error', path, problem: row.problem ?? 'it cannot be read', fix });
  }
  if (row.verdict === 'dangerous') {
    issues.push({
      kind: 'dangerous',
      severity: 'error',
      path,
      problem: 'its pickle would run commands when it is loaded',
      fix: 'Delete it. If you loaded it, treat this machine as compromised.',
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
