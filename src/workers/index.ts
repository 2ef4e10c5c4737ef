/**
 * Where the entries of child processes and threads are. In the built package this module is part of a chunk, which lies
 * one folder deep as well.
 */
const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';

export const INFERENCE_PROCESS_ENTRY = new URL(`../workers/inference-process.${extension}`, import.meta.url);
export const REGISTRY_SCAN_ENTRY = new URL(`../workers/registry-scan.${extension}`, import.meta.url);
export const REGISTRY_FILES_ENTRY = new URL(`../workers/registry-files.${extension}`, import.meta.url);
export const THREAD_ENTRY = new URL(`../workers/thread.${extension}`, import.meta.url);
