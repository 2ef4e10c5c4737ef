/** Door of graph/: the prompt executor. Knows nodes as data, no models. */
export type { GraphEvent, GraphListener, NodePlace } from './events.js';
export type {
  ExecutionBlocker,
  HiddenKind,
  InputDefinition,
  NodeContext,
  NodeDefinition,
  NodeInputs,
  NodeResult,
  NodeValidator,
  OutputDefinition,
  PreviewImage,
} from './node-definition.js';
export { PythonError } from './node-call.js';
export { nodeInfo } from './object-info.js';
export { PromptQueue, type HistoryQuery, type PromptQueueOptions, type Submission } from './prompt-queue.js';
export { pythonRepr } from './python-text.js';
export type { NodeTable } from './validation.js';
