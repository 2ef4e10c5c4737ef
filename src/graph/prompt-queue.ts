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
import { isJsonObject, type JsonObject, type JsonValue } from '../protocol/json.js';
import type { HistoryEntry, NodeErrors, QueueItem, ValidationError } from '../protocol/prompt.js';
import type { GraphEvent, GraphListener } from './events.js';
import { Executor } from './executor.js';
import { Heap } from './heap.js';
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
  /** Prompts that may wait. */
  readonly maxPending?: number;
  /** Entries of the history; the oldest goes first. */
  readonly maxHistory?: number;
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
    const nodes = Array.isArray(prompt) && prompt.length === 0 ? new Map<string, JsonValue>() : prompt;
    if (!isJsonObject(nodes)) throw new InvalidRequestError('"prompt" is an object of node id to node.');
    for (const [id, node] of nodes) {
      if (!isJsonObject(node))
        throw new InvalidRequestError(`Node ${id} of the prompt is not an object with class_type and inputs.`);
    }
    const targets = fields.get('partial_execution_targets');
    const selected = Array.isArray(targets) ? targets.filter((id: JsonValue) => typeof id === 'string') : undefined;
    const result = await validatePrompt(this.#options.table, nodes, selected);
    if ('error' in result) return { accepted: false, ...result };
    const id = fields.get('prompt_id');
    const promptId = id === undefined || id === null ? randomUUID() : pythonStr(id);
    this.#enqueue({ number, promptId, prompt: result.prompt, outputs: result.outputs, ...readExtraData(fields) });
    return { accepted: true, promptId, number, nodeErrors: result.nodeErrors };
  }

  /** Removes waiting prompts; ids that are unknown, or running, are ignored. */
  delete(promptIds: readonly string[]): void {
    for (const id of promptIds) {
      if (this.#pending.remove(({ promptId }) => promptId === id) === undefined) continue;
      this.#emitStatus();
      // ComfyUI says it twice when the last waiting prompt goes.
      if (this.#pending.size === 0) this.#emitStatus();
    }
  }

  clear(): void {
    this.#pending.clear();
    this.#emitStatus();
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
      const number = typeof given === 'string' ? Number(given) : given;
      if (typeof number !== 'number' || Number.isNaN(number)) throw new InvalidRequestError('"number" is a number.');
      return number;
    }
    const next = this.#counter;
    this.#counter += 1;
    const isFront = fields.get('front');
    return isFront === undefined || isFront === null || isFront === false || isFront === 0 || next === 0 ? next : -next;
  }

  #enqueue(item: QueueItem): void {
    const limit = this.#options.maxPending ?? MAX_PENDING;
    if (this.#pending.size >= limit) {
      throw new BridgeError('BUSY', `${limit} prompts are waiting already; send this one again later.`);
    }
    this.#pending.push(item);
    this.#emitStatus();
    this.#worker ??= this.#work();
  }

  async #work(): Promise<void> {
    // The answer to the submission leaves before the first event of the run.
    await nextTurn();
    for (let item = this.#pending.pop(); item !== undefined; item = this.#isClosed ? undefined : this.#pending.pop()) {
      await this.#runOne(item);
    }
    this.#worker = undefined;
  }

  async #runOne(item: QueueItem): Promise<void> {
    const controller = new AbortController();
    this.#running = { item, controller };
    this.#emitStatus();
    if (this.#mustClearCache) this.#executor.clearCache();
    this.#mustClearCache = false;
    try {
      const entry = await this.#executor.run(item, controller.signal);
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
    this.#emitStatus();
    if (item.clientId !== undefined) {
      this.#emit({
        kind: 'json',
        to: item.clientId,
        type: 'executing',
        data: { node: null, prompt_id: item.promptId },
      });
    }
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
function readExtraData(fields: JsonObject): { extraData: JsonObject; clientId: string | undefined } {
  const given = fields.get('extra_data');
  const extraData = new Map(isJsonObject(given) ? given : []);
  const clientId = fields.get('client_id');
  if (clientId !== undefined) extraData.set('client_id', clientId);
  for (const secret of SECRETS) extraData.delete(secret);
  const client = extraData.get('client_id');
  return { extraData, clientId: typeof client === 'string' ? client : undefined };
}
