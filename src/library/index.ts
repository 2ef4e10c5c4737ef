/** Door of library/: what several rooms know together about the user's models. */
export {
  detectComfyUIInstallation,
  isComfyUIInstallation,
  type ComfyUIInstallation,
  type DetectionOptions,
} from './detection.js';
export { ComfyUIPathResolver, ModelPathConfig, notFound, type FolderStats, type ModelFile } from './path-resolver.js';
export { adapterFolders, type AdapterFolders } from './adapter-folders.js';
