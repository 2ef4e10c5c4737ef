/** `vision-bridge/protocol`: what crosses the wire, for clients. Safe for browsers: no Node modules. */
export { parseJson, toPlain, writeJson, type Jsonable, type JsonObject, type JsonValue } from './json.js';
export type { HistoryEntry, NodeErrors, Prompt, QueueItem, StatusMessage, ValidationError } from './prompt.js';
