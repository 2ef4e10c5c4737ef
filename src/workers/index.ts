/** Where the entries of child processes and threads are, in source and in the built package alike. */
const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';

export const INFERENCE_PROCESS_ENTRY = new URL(`./inference-process.${extension}`, import.meta.url);
export const REGISTRY_SCAN_ENTRY = new URL(`./registry-scan.${extension}`, import.meta.url);
export const REGISTRY_FILES_ENTRY = new URL(`./registry-files.${extension}`, import.meta.url);
export const THREAD_ENTRY = new URL(`./thread.${extension}`, import.meta.url);
