/**
 * What a running ComfyUI has run: its history, and word of its queue over the websocket.
 *
 * Only its newest entries are asked for where those before are known; a history of ten thousand workflows is read in
 * pages. Prompts of others are not announced to us, but every change of the queue is.
 *
 * Source: ComfyUI 0.3.64, `/history` and `/ws`.
 */
import { randomUUID } from 'node:crypto';
import { WebSocket } from 'ws';
import { throwIfAborted } from '../common/abort.js';
import { BridgeError, messageOf } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import { isJsonObject, parseJson, type JsonObject, type JsonValue } from '../protocol/json.js';
import { getText } from './running-comfyui.js';

/** A prompt that was executed, whether it came to its end or not. */
export interface RanPrompt {
  readonly id: string;
  readonly ranAtMs: number;
  /** API form. */
  readonly graph: JsonObject;
  /** The user interface's id of the workflow that it came from. */
  readonly workflowId?: string;
}

export interface HistoryOptions {
  readonly signal?: AbortSignal;
  /** Whether a prompt was seen before. */
  readonly isKnown: (id: string) => boolean;
}

const NEWEST = 16;
const PAGE = 100;
/** ComfyUI keeps so many. */
const MAX_ENTRIES = 10_000;
const MAX_PAGE_BYTES = 256 * 2 ** 20;
const TIMEOUT_MS = 30_000;

/**
 * Prompts of the history that are not known yet.
 *
 * @throws {BridgeError} `UPSTREAM_UNAVAILABLE`; `CANCELLED`.
 */
export async function readNewPrompts(url: string, { signal, isKnown }: HistoryOptions): Promise<RanPrompt[]> {
  const base = url.replace(/\/+$/, '');
  const newest = await readPage(`${base}/history?max_items=${NEWEST}`, signal);
  const found = new Map(newest.map((prompt) => [prompt.id, prompt]));
  if (newest.length >= NEWEST && !newest.some(({ id }) => isKnown(id))) {
    for (let offset = 0; offset < MAX_ENTRIES; offset += PAGE) {
      const page = await readPage(`${base}/history?max_items=${PAGE}&offset=${offset}`, signal);
      const before = found.size;
      for (const prompt of page) found.set(prompt.id, prompt);
      // A short page is the last one; one that tells nothing new is that of a server that takes no offset.
      if (page.length < PAGE || (found.size === before && offset > NEWEST)) break;
    }
  }
  return [...found.values()].filter(({ id }) => !isKnown(id));
}

async function readPage(url: string, signal: AbortSignal | undefined): Promise<RanPrompt[]> {
  throwIfAborted(signal);
  const text = await getText(url, { maxBytes: MAX_PAGE_BYTES, timeoutMs: TIMEOUT_MS, signal });
  let history: JsonValue;
  try {
    history = parseJson(text);
  } catch (error) {
    throw new BridgeError('UPSTREAM_UNAVAILABLE', `${url} is not answered with JSON: ${messageOf(error)}.`, {
      cause: error,
      details: { url },
    });
  }
  if (!isJsonObject(history)) return [];
  return [...history].flatMap(([id, entry]) => readEntry(id, entry) ?? []);
}

/** `{prompt: [number, id, graph, extra data, outputs], status: {messages: [[event, {timestamp}]]}}` */
function readEntry(id: string, entry: JsonValue): RanPrompt | undefined {
  const prompt = isJsonObject(entry) ? entry.get('prompt') : undefined;
  if (!isJsonObject(entry) || !Array.isArray(prompt)) return undefined;
  const [, , graph, extra] = prompt as readonly (JsonValue | undefined)[];
  if (graph === undefined || !isJsonObject(graph) || graph.size === 0) return undefined;
  const workflowId = textAt(extra, 'extra_pnginfo', 'workflow', 'id');
  return {
    id,
    graph,
    ranAtMs: startOf(entry.get('status')) ?? Date.now(),
    ...(workflowId === undefined ? {} : { workflowId }),
  };
}

function startOf(status: JsonValue | undefined): number | undefined {
  const messages = status !== undefined && isJsonObject(status) ? status.get('messages') : undefined;
  for (const message of Array.isArray(messages) ? (messages as readonly JsonValue[]) : []) {
    const [, data] = Array.isArray(message) ? (message as readonly (JsonValue | undefined)[]) : [];
    const stamp = data !== undefined && isJsonObject(data) ? data.get('timestamp') : undefined;
    if (typeof stamp === 'number' || typeof stamp === 'bigint') return Number(stamp);
  }
  return undefined;
}

function textAt(value: JsonValue | undefined, ...keys: readonly string[]): string | undefined {
  let at = value;
  for (const key of keys) at = at !== undefined && isJsonObject(at) ? at.get(key) : undefined;
  return typeof at === 'string' ? at.slice(0, 200) : undefined;
}

const FIRST_RETRY_MS = 1000;
const MAX_RETRY_MS = 30_000;
const MAX_MESSAGE_BYTES = 64 * 2 ** 20;

export interface WatchOptions {
  /** The queue changed, or the connection was made: something may have run. */
  readonly onChange: () => void;
  readonly logger: Logger;
}

/** Listens to the websocket of a ComfyUI until it is disposed, and connects again when it is lost. */
export class QueueWatch implements Disposable {
  readonly #url: string;
  readonly #options: WatchOptions;
  #socket: WebSocket | undefined;
  #timer: NodeJS.Timeout | undefined;
  #retryMs = FIRST_RETRY_MS;
  #isDisposed = false;

  constructor(url: string, options: WatchOptions) {
    this.#url = `${url.replace(/\/+$/, '').replace(/^http/, 'ws')}/ws?clientId=vision-bridge-${randomUUID()}`;
    this.#options = options;
    this.#connect();
  }

  [Symbol.dispose](): void {
    this.#isDisposed = true;
    clearTimeout(this.#timer);
    this.#socket?.terminate();
  }

  #connect(): void {
    if (this.#isDisposed) return;
    const socket = new WebSocket(this.#url, { maxPayload: MAX_MESSAGE_BYTES });
    this.#socket = socket;
    socket.on('open', () => {
      this.#retryMs = FIRST_RETRY_MS;
      this.#options.onChange();
    });
    socket.on('message', (data, isBinary) => {
      // Sent to everybody whenever a prompt is queued, begins or ends.
      if (!isBinary && data instanceof Buffer && data.subarray(0, 200).includes('"status"')) this.#options.onChange();
    });
    socket.on('error', (error) => {
      this.#options.logger.debug({ url: this.#url, reason: error.message }, 'the websocket of ComfyUI failed');
    });
    socket.on('close', () => {
      if (this.#isDisposed) return;
      this.#timer = setTimeout(() => {
        this.#connect();
      }, this.#retryMs).unref();
      this.#retryMs = Math.min(this.#retryMs * 2, MAX_RETRY_MS);
    });
  }
}
