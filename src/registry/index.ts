/** Door of registry/: what the user's model files are. */
export type { ModelBeside } from './beside.js';
export type { AdapterFacts, ModelKind } from './classify/facts.js';
export { isSameFamily } from './classify/metadata.js';
export { findDuplicates, type Duplicates } from './duplicates.js';
export { hashModel, type ModelHashes } from './hashes.js';
export { baseOf, MODEL_FIELDS, SORT_FIELDS, type ModelQuery, type QueryResult } from './query.js';
export { ModelReader, type ModelReading } from './read-model.js';
export type { ModelEntry, ModelRoot } from './entry.js';
export { ModelRegistry, type RegistryTables } from './registry.js';
export { INDEX_VERSION, type ModelRow } from './row.js';
export { serveScan } from './scan/thread.js';
export type { SidecarClaims } from './sidecars.js';
export { STATS, type Grouping, type ModelStats, type StatName } from './stats.js';
export type { ValueCheck } from './values.js';
export { BackgroundHashing } from './whole-files/background.js';
export { serveFileWork } from './whole-files/thread.js';
