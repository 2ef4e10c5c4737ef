/** Shapes of ComfyUI's prompt protocol: prompts, queue, history, events. */
import { isJsonObject, withoutFloatMark, type JsonObject, type Jsonable, type JsonValue } from './json.js';

/** `{ [nodeId]: { class_type, inputs } }` in the order in which it was written. */
export type Prompt = JsonObject;

/** `[number, prompt_id, prompt, extra_data, outputs_to_execute]` */
export interface QueueItem {
  readonly number: number;
  readonly promptId: string;
  readonly prompt: Prompt;
  readonly extraData: JsonObject;
  readonly outputs: readonly string[];
  readonly clientId: string | undefined;
  /** When it was accepted, in ms since the epoch. */
  readonly createdMs: number;
}

/** A type rather than an interface, so that it can be written as JSON as it is. */
export type ValidationError = {
  readonly type: string;
  readonly message: string;
  readonly details: string;
  readonly extra_info: Readonly<Record<string, Jsonable>>;
};

export type NodeErrors = {
  readonly errors: readonly ValidationError[];
  readonly dependent_outputs: readonly string[];
  readonly class_type: string;
};

/** `[event name, data]` with its timestamp, as history keeps it. */
export type StatusMessage = readonly [string, Readonly<Record<string, Jsonable>>];

export interface HistoryEntry {
  readonly item: QueueItem;
  readonly outputs: ReadonlyMap<string, Jsonable>;
  readonly meta: ReadonlyMap<string, Jsonable>;
  readonly status: {
    readonly status_str: 'success' | 'error';
    readonly completed: boolean;
    readonly messages: readonly StatusMessage[];
  };
}

/** Lower case, with hyphens: the only form of prompt ids in newer versions of the protocol. */
export function isCanonicalUuid(text: string): boolean {
  return /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(text);
}

/** The five-element array that `/queue` and `/history` show. Secrets never get this far. */
export function queueItemJson({ number, promptId, prompt, extraData, outputs }: QueueItem): Jsonable {
  return [number, promptId, prompt, extraData, outputs];
}

export function historyEntryJson({ item, outputs, meta, status }: HistoryEntry): Jsonable {
  return {
    prompt: queueItemJson(item),
    outputs,
    status: { ...status, messages: status.messages.map((entry) => [...entry]) },
    meta,
  };
}

/** A link `[node id, slot]`: a list of exactly two, a text and a number. */
export function asLink(value: JsonValue | undefined): readonly [string, number] | undefined {
  if (!Array.isArray(value) || value.length !== 2) return undefined;
  const [id, given] = value as readonly JsonValue[];
  const slot = withoutFloatMark(given);
  return typeof id === 'string' && typeof slot === 'number' ? [id, slot] : undefined;
}

/** The key under which a client passes a list that is no link. */
const LITERAL = '__value__';

/** A literal that `asLink` takes for what it is: lists that look like links stay wrapped as the client sent them. */
export function wrapLiteral(value: JsonValue): JsonValue {
  return asLink(value) === undefined ? value : new Map([[LITERAL, value]]);
}

/** What a client put into `{"__value__": …}`; once only, as ComfyUI does. */
export function unwrapLiteral(value: JsonValue): JsonValue {
  const wrapped = isJsonObject(value) ? value.get(LITERAL) : undefined;
  return wrapped === undefined ? value : wrapped;
}

/** The value of a literal input of a validated prompt, where only what looks like a link is still wrapped. */
export function literalOf(value: JsonValue): JsonValue {
  const wrapped = isJsonObject(value) ? value.get(LITERAL) : undefined;
  return asLink(wrapped) === undefined ? value : unwrapLiteral(value);
}
