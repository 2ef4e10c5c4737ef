/** Door of graph/: the prompt executor. Knows nodes as data, no models. */
export type { GraphEvent, NodePlace } from './events.js';
export type {
  ExecutionBlocker,
  InputDefinition,
  NodeContext,
  NodeDefinition,
  NodeInputs,
  NodeResult,
} from './node-definition.js';
export { isBlocker } from './node-call.js';
export { isLiteralType, NodeCaller } from './node-caller.js';
export { PythonError } from './python-error.js';
export { nodeInfo } from './object-info.js';
export { PromptQueue, type Submission } from './prompt-queue.js';
export { pythonRepr, pythonStr, pythonTypeName } from './python-text.js';
export type { NodeTable } from './validation.js';
