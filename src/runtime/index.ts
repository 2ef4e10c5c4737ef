/** Door of runtime/: the inference process from both sides, and sessions inside it. */
export { serveOperations, type Operation, type OperationContext } from './host.js';
export { InferenceProcess, type InferenceProcessOptions } from './inference-process.js';
export type { Progress } from './messages.js';
export { Session } from './session.js';
