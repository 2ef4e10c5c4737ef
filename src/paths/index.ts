/** Door of paths/: the user's folders, listings, and safe names. */
export type { PathProblem } from './extra-model-paths.js';
export { FolderPaths, type FolderPathsOptions, type PathsChange } from './folder-paths.js';
export type { Origin } from './folder-map.js';
export { isFileArea, resolveInside, splitAnnotation, type FileArea } from './lookup.js';
