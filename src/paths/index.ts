/** Door of paths/: the user's folders, listings, and safe names. */
export { CONFIG_NAME } from './configuration.js';
export type { PathProblem } from './extra-model-paths.js';
export { FolderPaths, type FolderPathsOptions } from './folder-paths.js';
export type { ModelFolder, Origin } from './folder-map.js';
export { resolveInside, splitAnnotation, type FileArea } from './lookup.js';
