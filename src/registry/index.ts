/** Door of registry/: what the user's model files are. */
export type { AdapterFacts, ModelFacts, ModelKind } from './classify/facts.js';
export { baseFamily } from './classify/metadata.js';
export { findDuplicates, type DuplicateGroup, type DuplicateOptions, type Duplicates } from './duplicates.js';
export { hashModel, type ModelHashes } from './hashes.js';
export { MODEL_FIELDS, queryModels, SORT_FIELDS, type ModelQuery, type QueryResult } from './query.js';
export { ModelReader, type ModelReading } from './read-model.js';
export { ModelRegistry, type ModelEntry, type ModelRoot, type ScanProgress, type ScanSummary } from './registry.js';
export { INDEX_VERSION, type ModelRow } from './row.js';
export { serveScan } from './scan/thread.js';
export { computeStats, GROUPINGS, STATS, type Grouping, type ModelStats, type StatName } from './stats.js';
