/** Door of runtime/: the inference process from both sides, sessions inside it, and threads. */
export { BufferPool, type BufferLease } from './buffer-pool.js';
export { DEVICES, type Device } from './execution-providers.js';
export { nextMessages, serveOperations, singleOperation, type Operation, type OperationCall } from './host.js';
export { InferenceProcess } from './inference-process.js';
export type { Progress } from './messages.js';
export { Session } from './session.js';
export { serveTasks, ThreadPool } from './thread-pool.js';
