/** Door of registry/: what the user's model files are. */
export type { AdapterFacts, ModelKind } from './classify/facts.js';
export { findDuplicates, type Duplicates } from './duplicates.js';
export { hashModel } from './hashes.js';
export { MODEL_FIELDS, SORT_FIELDS, type ModelQuery, type QueryResult } from './query.js';
export { ModelReader, type ModelReading } from './read-model.js';
export { ModelRegistry, type ModelEntry, type ModelRoot } from './registry.js';
export { INDEX_VERSION, type ModelRow } from './row.js';
export { serveScan } from './scan/thread.js';
export { STATS, type Grouping, type ModelStats, type StatName } from './stats.js';
