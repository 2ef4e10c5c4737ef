/** Door of library/: what several rooms know together about the user's models. */
export {
  detectComfyUIInstallation,
  isComfyUIInstallation,
  type ComfyUIInstallation,
  type DetectionOptions,
} from './detection.js';
export { ComfyUIPathResolver, ModelPathConfig, notFound, type FolderStats, type ModelFile } from './path-resolver.js';
export { adapterFolders, customaryFolders, type AdapterFolders } from './adapter-folders.js';
export { modelRoots } from './model-roots.js';
export { findEncoderIssues } from './encoder-check.js';
export { findIssues, type HealthIssue } from './health.js';
export { resolveWorkflow, type MissingModels } from './missing-models.js';
export { pairModels, type Pairing } from './pairing.js';
export { UsageTracker, type TrackedUsage, type UsageTables } from './usage-tracker.js';
export { findValueIssues } from './value-check.js';
export { readWorkflowFile } from './workflow-files.js';
export {
  DEFAULT_FIELDS,
  duplicatesJson,
  hashesJson,
  issueJson,
  missingJson,
  modelDetailsJson,
  modelJson,
  pairingJson,
  statsJson,
  usageJson,
  valuesJson,
} from './registry-json.js';
