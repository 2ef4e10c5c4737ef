/**
 * Accepted prompts, the one that runs, and those that ran.
 *
 * Lower numbers run first, equal numbers by prompt id as text. One worker, one prompt at a time; the next starts when the
 * history of the former is written. Everything is bounded.
 */
import { randomUUID } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { InvalidRequestError, BridgeError, messageOf } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import { isJsonObject, withoutFloatMark, type JsonObject, type JsonValue } from '../protocol/json.js';
import {
  isCanonicalUuid,
  type HistoryEntry,
  type NodeErrors,
  type QueueItem,
  type ValidationError,
} from '../protocol/prompt.js';
import { convertLiteral } from './convert.js';
import type { GraphEvent, GraphListener } from './events.js';
import { Executor } from './executor.js';
import { Heap } from './heap.js';
import type { GraphDialect } from './input-checks.js';
import { pythonStr } from './python-text.js';
import { validatePrompt, wholePromptError, type NodeTable } from './validation.js';

export type Submission =
  | {
      readonly accepted: true;
      readonly promptId: string;
      readonly number: number;
      readonly nodeErrors: ReadonlyMap<string, NodeErrors>;
    }
  | { readonly accepted: false; readonly error: ValidationError; readonly nodeErrors: ReadonlyMap<string, NodeErrors> };

interface PromptQueueOptions {
  readonly table: NodeTable;
  readonly logger: Logger;
  readonly now?: () => number;
  readonly dialect?: GraphDialect;
  /** Keeps accepted prompts across a crash; none by default. */
  readonly journal?: QueueJournal;
  /** Prompts that may wait. */
  readonly maxPending?: number;
  /** Entries of the history; the oldest goes first. */
  readonly maxHistory?: number;
}

/** Where accepted prompts are kept until they are done with. */
interface QueueJournal {
  /** Settles when the prompt survives a crash; before that it is not accepted. */
  accepted(item: QueueItem): Promise<void>;
  /** The prompt ran, or was deleted. */
  finished(item: QueueItem): void;
}

interface HistoryQuery {
  readonly maxItems?: number | undefined;
  readonly offset?: number | undefined;
}

const MAX_PENDING = 10_000;
const MAX_HISTORY = 10_000; // ComfyUI's own limit
/** Keys of extra_data that never leave the prompt they came with. */
const SECRETS = ['auth_token_comfy_org', 'api_key_comfy_org'];

export class PromptQueue implements AsyncDisposable {
  readonly #options: PromptQueueOptions;
  readonly #executor: Executor;
  readonly #listeners = new Set<GraphListener>();
  readonly #pending = new Heap<QueueItem>(
    (a, b) => a.number - b.number || (a.promptId < b.promptId ? -1 : a.promptId > b.promptId ? 1 : 0),
  );
  readonly #history = new Map<string, HistoryEntry>();
  #running: { readonly item: QueueItem; readonly controller: AbortController } | undefined;
  #counter = 0;
  #worker: Promise<void> | undefined;
  #mustClearCache = false;
  #isClosed = false;

  constructor(options: PromptQueueOptions) {
    this.#options = options;
    this.#executor = new Executor({
      table: options.table,
      now: options.now ?? Date.now,
      emit: (event) => {
        this.#emit(event);
      },
    });
  }

  /** Waiting and running prompts. */
  get remaining(): number {
    return this.#pending.size + (this.#running === undefined ? 0 : 1);
  }

  get running(): QueueItem | undefined {
    return this.#running?.item;
  }

  /** In the order of ComfyUI's heap, the next one first: sort by number and prompt id for the order in which they run. */
  get pending(): readonly QueueItem[] {
    return this.#pending.items;
  }

  /** @returns a function that ends the subscription */
  subscribe(listener: GraphListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  runningNode(clientId: string): string | undefined {
    return this.#executor.runningNode(clientId);
  }

  /**
   * The body of `POST /prompt`.
   *
   * @throws {InvalidRequestError} for a body that no client of ComfyUI sends: not an object, a prompt that is no object.
   */
  async submit(body: JsonValue): Promise<Submission> {
    const fields = isJsonObject(body)
      ? body
      : Array.isArray(body) || typeof body === 'string'
        ? new Map<string, JsonValue>()
        : undefined;
    if (fields === undefined)
      throw new InvalidRequestError('The body of /prompt is a JSON object with the key "prompt".');
    const number = this.#takeNumber(fields);
    const prompt = fields.get('prompt');
    if (prompt === undefined)
      return {
        accepted: false,
        error: wholePromptError('no_prompt', 'No prompt provided', 'No prompt provided'),
        nodeErrors: new Map(),
      };
    const isEmpty = prompt === '' || (Array.isArray(prompt) && prompt.length === 0);
    const nodes = isEmpty ? new Map<string, JsonValue>() : prompt;
    if (!isJsonObject(nodes)) throw new InvalidRequestError('"prompt" is an object of node id to node.');
    const targets = fields.get('partial_execution_targets') ?? undefined;
    if (targets !== undefined && !Array.isArray(targets))
      throw new InvalidRequestError('"partial_execution_targets" is a list of node ids.');
    const selected = targets?.filter((id: JsonValue) => typeof id === 'string');
    const { extraData, clientId } = readExtraData(fields);
    const dialect = this.#options.dialect ?? '0.3.64';
    const id = fields.get('prompt_id');
    if (dialect === 'latest' && id !== undefined && id !== null && !(typeof id === 'string' && isCanonicalUuid(id))) {
      const error = wholePromptError('invalid_prompt_id', 'prompt_id must be a valid UUID', '');
      return { accepted: false, error, nodeErrors: new Map() };
    }
    const result = await validatePrompt(this.#options.table, nodes, selected, dialect);
    if ('error' in result) {
      const { type, message, details } = result.error;
      this.#options.logger.warn({ type, message, details, nodes: [...result.nodeErrors.keys()] }, 'prompt refused');
      return { accepted: false, ...result };
    }
    const promptId = id === undefined || id === null ? randomUUID() : pythonStr(id);
    const createdMs = this.#now();
    if (dialect === 'latest') extraData.set('create_time', createdMs);
    const { prompt: converted, outputs } = result;
    await this.#enqueue({ number, promptId, prompt: converted, outputs, extraData, clientId, createdMs });
    return { accepted: true, promptId, number, nodeErrors: result.nodeErrors };
  }

  /** Removes waiting prompts; ids that are unknown, or running, are ignored. */
  delete(promptIds: readonly string[]): void {
    for (const id of promptIds) {
      const removed = this.#pending.remove(({ promptId }) => promptId === id);
      if (removed === undefined) continue;
      this.#forget([removed]);
      this.#emitStatus();
      // ComfyUI says it twice when the last waiting prompt goes.
      if (this.#pending.size === 0) this.#emitStatus();
    }
  }

  clear(): void {
    this.#forget([...this.#pending.items]);
    this.#pending.clear();
    this.#emitStatus();
  }

  /** Deletes or interrupts jobs by id; true when one of them was waiting or running. */
  cancel(promptIds: readonly string[]): boolean {
    const before = this.#pending.size;
    this.delete(promptIds);
    const isInterrupted = promptIds.map((id) => this.interrupt(id)).includes(true);
    return isInterrupted || this.#pending.size < before;
  }

  /** Puts back what was accepted before a crash or a stop; before anything else is submitted. */
  restore(items: readonly QueueItem[]): void {
    for (const item of items) {
      this.#counter = Math.max(this.#counter, Math.floor(Math.abs(item.number)) + 1);
      this.#add(item);
    }
  }

  /** Takes no more prompts, and waits until the running one has ended, no longer than the signal allows. */
  async drain(signal: AbortSignal): Promise<void> {
    this.#isClosed = true;
    const stop = (): void => void this.interrupt();
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    await this.#worker;
    signal.removeEventListener('abort', stop);
  }

  /** Stops the running prompt, if it is the one named; true when something was stopped. */
  interrupt(promptId?: string): boolean {
    if (this.#running === undefined || (promptId !== undefined && this.#running.item.promptId !== promptId))
      return false;
    this.#running.controller.abort();
    return true;
  }

  /** Drops all results before the next prompt. */
  freeMemory(): void {
    this.#mustClearCache = true;
  }

  historyEntry(promptId: string): HistoryEntry | undefined {
    return this.#history.get(promptId);
  }

  /** The newest `maxItems`, or from `offset` on, in order of completion. */
  history({ maxItems, offset }: HistoryQuery = {}): ReadonlyMap<string, HistoryEntry> {
    const entries = [...this.#history];
    if (maxItems !== undefined && maxItems <= 0) return new Map();
    const begin =
      offset !== undefined && offset >= 0
        ? offset
        : maxItems === undefined
          ? 0
          : Math.max(0, entries.length - maxItems);
    return new Map(entries.slice(begin, maxItems === undefined ? undefined : begin + maxItems));
  }

  deleteHistory(promptIds: readonly string[]): void {
    for (const id of promptIds) this.#history.delete(id);
  }

  clearHistory(): void {
    this.#history.clear();
  }

  /** Interrupts what runs, drops what waits, and waits until the worker is at rest. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    this.#pending.clear();
    this.interrupt();
    await this.#worker;
    this.#listeners.clear();
  }

  /** Consumed also by prompts that are then refused. */
  #takeNumber(fields: JsonObject): number {
    const given = fields.get('number');
    if (given !== undefined) {
      const converted = convertLiteral('FLOAT', given);
      if ('reason' in converted) throw new InvalidRequestError(`"number" is a number: ${converted.reason}.`);
      return Number(withoutFloatMark(converted.value));
    }
    const next = this.#counter;
    this.#counter += 1;
    const isFront = fields.get('front');
    return isFront === undefined || isFront === null || isFront === false || isFront === 0 || next === 0 ? next : -next;
  }

  #now(): number {
    return (this.#options.now ?? Date.now)();
  }

  #forget(items: readonly QueueItem[]): void {
    for (const item of items) this.#options.journal?.finished(item);
  }

  async #enqueue(item: QueueItem): Promise<void> {
    const limit = this.#options.maxPending ?? MAX_PENDING;
    if (this.#isClosed) throw new BridgeError('BUSY', 'The server is stopping; send this prompt again later.');
    if (this.#pending.size >= limit) {
      throw new BridgeError('BUSY', `${limit} prompts are waiting already; send this one again later.`);
    }
    await this.#options.journal?.accepted(item);
    this.#options.logger.info({ promptId: item.promptId }, 'got prompt');
    this.#add(item);
  }

  #add(item: QueueItem): void {
    this.#pending.push(item);
    this.#emitStatus();
    // Of a server that stops meanwhile, the journal keeps the prompt for the next start.
    if (!this.#isClosed) this.#worker ??= this.#work();
  }

  async #work(): Promise<void> {
    // The answer to the submission leaves before the first event of the run.
    await nextTurn();
    const next = (): QueueItem | undefined => (this.#isClosed ? undefined : this.#pending.pop());
    for (let item = next(); item !== undefined; item = next()) await this.#runOne(item);
    this.#worker = undefined;
  }

  async #runOne(item: QueueItem): Promise<void> {
    const controller = new AbortController();
    this.#running = { item, controller };
    this.#emitStatus();
    const startedMs = this.#now();
    let failure: Record<string, unknown> | undefined;
    if (this.#mustClearCache) this.#executor.clearCache();
    this.#mustClearCache = false;
    try {
      const entry = await this.#executor.run(item, controller.signal);
      failure = failureOf(entry);
      this.#history.set(item.promptId, entry);
      for (const oldest of this.#history.keys()) {
        if (this.#history.size <= (this.#options.maxHistory ?? MAX_HISTORY)) break;
        this.#history.delete(oldest);
      }
    } catch (error) {
      this.#options.logger.error(
        { promptId: item.promptId, reason: messageOf(error) },
        'a prompt was lost to a defect of the executor',
      );
    }
    this.#running = undefined;
    // A prompt that a stop cut off is kept, and runs again at the next start.
    if (!(this.#isClosed && controller.signal.aborted)) this.#forget([item]);
    this.#emitStatus();
    if (item.clientId !== undefined) {
      this.#emit({
        kind: 'json',
        to: item.clientId,
        type: 'executing',
        data: { node: null, prompt_id: item.promptId },
      });
    }
    const told = { promptId: item.promptId, ms: this.#now() - startedMs };
    if (failure === undefined) this.#options.logger.info(told, 'prompt executed');
    else this.#options.logger.warn({ ...told, ...failure }, 'prompt failed');
  }

  #emitStatus(): void {
    this.#emit({
      kind: 'json',
      to: undefined,
      type: 'status',
      data: { status: { exec_info: { queue_remaining: this.remaining } } },
    });
  }

  #emit(event: GraphEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}

/** What is kept of extra_data, with the client's id in it, and without its secrets. */
function readExtraData(fields: JsonObject): { extraData: Map<string, JsonValue>; clientId: string | undefined } {
  const given = fields.get('extra_data') ?? undefined;
  if (given !== undefined && !isJsonObject(given)) throw new InvalidRequestError('"extra_data" is an object.');
  const extraData = new Map(given);
  const clientId = fields.get('client_id');
  if (clientId !== undefined) extraData.set('client_id', clientId);
  for (const secret of SECRETS) extraData.delete(secret);
  const client = extraData.get('client_id');
  return { extraData, clientId: typeof client === 'string' ? client : undefined };
}

/** What a log says of a run that failed; a run that was interrupted did not. */
function failureOf({ status }: HistoryEntry): Record<string, unknown> | undefined {
  const [, data] = status.messages.find(([event]) => event === 'execution_error') ?? [];
  if (data === undefined) return undefined;
  const { node_id: node, node_type: nodeType, exception_type: type, exception_message: message } = data;
  return { node, nodeType, type, message: typeof message === 'string' ? message.trim() : message };
}
