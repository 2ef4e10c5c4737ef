/**
 * Runs one prompt at a time, with ComfyUI's events in ComfyUI's order.
 *
 * Source: ComfyUI 0.3.64, execution.py (`PromptExecutor`, `execute`), restated; test/golden/protocol holds recordings.
 */
import { cancelledError } from '../common/abort.js';
import { messageOf } from '../common/errors.js';
import { isJsonObject, type Jsonable, type JsonObject } from '../protocol/json.js';
import { asLink, type HistoryEntry, type QueueItem, type StatusMessage } from '../protocol/prompt.js';
import type { GraphListener } from './events.js';
import { ExecutionList } from './execution-list.js';
import { describeInputs, isCancellation, tracebackOf } from './failure.js';
import { callInputs, callNode, gatherInputs, joinOutputs, joinUi } from './node-call.js';
import type { NodeContext, NodeResult, PreviewImage } from './node-definition.js';
import { ProgressState } from './progress.js';
import { ResultCache, type CachedResult } from './result-cache.js';
import { RunningPrompt, type RunningNode } from './running-prompt.js';
import { pythonTypeOf, type NodeTable } from './validation.js';

export interface ExecutorOptions {
  readonly table: NodeTable;
  readonly emit: GraphListener;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

/** What an interrupt throws inside a node. */
class Interrupted extends Error {}

type Outcome = 'done' | 'again' | { readonly failure: unknown; readonly inputs: Readonly<Record<string, Jsonable>> };

export class Executor {
  readonly #options: ExecutorOptions;
  readonly #cache = new ResultCache();
  #current: { readonly clientId: string | undefined; readonly displayId: string | undefined } | undefined;

  constructor(options: ExecutorOptions) {
    this.#options = options;
  }

  /** The node that a client's own prompt is at, for a client that connects in the middle. */
  runningNode(clientId: string): string | undefined {
    return this.#current?.clientId === clientId ? this.#current.displayId : undefined;
  }

  /** Drops all results. Only between prompts. */
  clearCache(): void {
    this.#cache.clear();
  }

  /** Runs a prompt to its end; failures of nodes are part of the entry, not thrown. */
  async run(item: QueueItem, signal: AbortSignal): Promise<HistoryEntry> {
    this.#current = { clientId: item.clientId, displayId: undefined };
    try {
      return await new Run(this.#options, this.#cache, item, signal, (displayId) => {
        this.#current = { clientId: item.clientId, displayId };
      }).toEnd();
    } finally {
      this.#current = undefined;
    }
  }
}

class Run {
  readonly #options: ExecutorOptions;
  readonly #cache: ResultCache;
  readonly #item: QueueItem;
  readonly #signal: AbortSignal;
  readonly #setRunningNode: (displayId: string) => void;
  readonly #prompt: RunningPrompt;
  readonly #list: ExecutionList;
  readonly #progress: ProgressState;
  readonly #messages: StatusMessage[] = [];
  readonly #executed = new Set<string>();
  readonly #uiOf = new Map<string, NonNullable<CachedResult['ui']>>();
  /** Nodes that wait for the subgraphs that their calls made. */
  readonly #expanded = new Map<string, { readonly results: readonly NodeResult[] }>();

  constructor(
    options: ExecutorOptions,
    cache: ResultCache,
    item: QueueItem,
    signal: AbortSignal,
    setRunningNode: (displayId: string) => void,
  ) {
    this.#options = options;
    this.#cache = cache;
    this.#item = item;
    this.#signal = signal;
    this.#setRunningNode = setRunningNode;
    this.#prompt = new RunningPrompt(options.table, item.prompt);
    this.#list = new ExecutionList(this.#prompt, (id) => cache.get(id) !== undefined);
    this.#progress = new ProgressState(this.#prompt, item.promptId);
  }

  async toEnd(): Promise<HistoryEntry> {
    this.#addMessage('execution_start', {});
    this.#cache.begin(this.#prompt, await this.#changeTokens(this.#prompt.ids()));
    const cached = this.#prompt.ids().filter((id) => this.#cache.get(id) !== undefined);
    for (const id of cached) {
      const ui = this.#cache.get(id)?.ui;
      if (ui !== undefined) this.#uiOf.set(id, ui);
    }
    this.#addMessage('execution_cached', { nodes: cached });
    for (const id of this.#item.outputs) this.#list.add(id);
    const isCompleted = await this.#loop();
    return {
      item: this.#item,
      outputs: new Map([...this.#uiOf].map(([id, { output }]) => [id, output])),
      meta: new Map([...this.#uiOf].map(([id, { meta }]) => [id, meta])),
      status: { status_str: isCompleted ? 'success' : 'error', completed: isCompleted, messages: this.#messages },
    };
  }

  async #loop(): Promise<boolean> {
    while (!this.#list.isEmpty) {
      const id = this.#list.next();
      if (id === undefined) {
        this.#reportCycle();
        return false;
      }
      const node = this.#prompt.get(id);
      const outcome = await this.#step(node);
      if (typeof outcome === 'object') {
        this.#reportFailure(node, outcome.failure, outcome.inputs);
        return false;
      }
      if (outcome === 'done') this.#list.complete(id);
    }
    this.#addMessage('execution_success', {});
    return true;
  }

  async #step(node: RunningNode): Promise<Outcome> {
    const known = this.#cache.get(node.id);
    if (known !== undefined) {
      this.#emitToClient('executed', {
        node: node.id,
        display_node: node.displayId,
        output: known.ui?.output ?? null,
        prompt_id: this.#item.promptId,
      });
      if (known.ui !== undefined) this.#uiOf.set(node.id, known.ui);
      this.#finish(node.id);
      return 'done';
    }
    const expanded = this.#expanded.get(node.id);
    if (expanded !== undefined) {
      this.#expanded.delete(node.id);
      this.#store(node, this.#resolveExpanded(node, expanded.results), expanded.results);
      this.#finish(node.id);
      return 'done';
    }
    let shownInputs: Readonly<Record<string, Jsonable>> = {};
    try {
      this.#progress.start(node.id);
      this.#emitProgressState();
      const { values, missing } = gatherInputs(node, (id) => this.#cache.get(id));
      shownInputs = describeInputs(values);
      this.#setRunningNode(node.displayId);
      this.#emitToClient('executing', { node: node.id, display_node: node.displayId, prompt_id: this.#item.promptId });
      if (await this.#needsLazyInputs(node, values, missing)) return 'again';
      const results = await callNode(node.definition, callInputs(node.definition, values), {
        context: (index) => this.#context(node, index),
        beforeCall: () => {
          this.#throwIfInterrupted();
        },
        onBlocked: (message) => {
          this.#reportBlocked(node, message);
        },
      });
      return await this.#accept(node, results);
    } catch (failure) {
      return { failure, inputs: shownInputs };
    }
  }

  async #accept(node: RunningNode, results: readonly NodeResult[]): Promise<Outcome> {
    const subgraphs = results.flatMap(({ expand }) => (expand === undefined ? [] : [expand]));
    if (subgraphs.length > 0) {
      await this.#expand(node, subgraphs, results);
      return 'again';
    }
    const ui = this.#store(node, joinOutputs(node.definition, results), results);
    if (ui !== undefined) {
      this.#emitToClient('executed', {
        node: node.id,
        display_node: node.displayId,
        output: ui.output,
        prompt_id: this.#item.promptId,
      });
    }
    this.#finish(node.id);
    this.#executed.add(node.id);
    return 'done';
  }

  #store(
    node: RunningNode,
    outputs: readonly (readonly unknown[])[],
    results: readonly NodeResult[],
  ): CachedResult['ui'] {
    const output = joinUi(results);
    if (output === undefined) {
      this.#cache.set(node.id, { outputs });
      return undefined;
    }
    const meta = {
      node_id: node.id,
      display_node: node.displayId,
      parent_node: node.parentId,
      real_node_id: node.realId,
    };
    const ui = { output, meta };
    this.#uiOf.set(node.id, ui);
    this.#cache.set(node.id, { outputs, ui });
    return ui;
  }

  async #needsLazyInputs(
    node: RunningNode,
    values: Readonly<Record<string, readonly unknown[]>>,
    missing: ReadonlySet<string>,
  ): Promise<boolean> {
    const { definition } = node;
    if (definition.neededLazyInputs === undefined) return false;
    const known = { ...values, ...Object.fromEntries([...missing].map((name) => [name, [null]])) };
    const needed = new Set<string>();
    for (const inputs of callInputs(definition, known)) {
      for (const name of await definition.neededLazyInputs(inputs)) needed.add(name);
    }
    let isWaiting = false;
    for (const name of needed) {
      const link = missing.has(name) ? asLink(node.inputs.get(name)) : undefined;
      if (link !== undefined) isWaiting = this.#list.addDependency(node.id, link[0]) || isWaiting;
    }
    return isWaiting;
  }

  async #expand(node: RunningNode, subgraphs: readonly JsonObject[], results: readonly NodeResult[]): Promise<void> {
    const ids = subgraphs.flatMap((subgraph) => this.#prompt.expand(node.id, subgraph));
    this.#cache.extend(this.#prompt, ids, await this.#changeTokens(ids));
    this.#expanded.set(node.id, { results });
    const outputs = ids.filter((id) => this.#prompt.get(id).definition.isOutputNode === true);
    const sources = results
      .flatMap((result) => (result.outputs ?? []).map((value) => linkOf(value)?.[0]))
      .filter((id) => id !== undefined);
    for (const id of new Set([...outputs, ...sources])) this.#list.addDependency(node.id, id);
  }

  /** Links in the outputs of an expanding node become the values of the nodes they name. */
  #resolveExpanded(node: RunningNode, results: readonly NodeResult[]): unknown[][] {
    return node.definition.outputs.map((_output, slot) =>
      results.flatMap((result): readonly unknown[] => {
        const value = result.outputs?.[slot];
        const link = linkOf(value);
        return link === undefined ? [value] : (this.#cache.get(link[0])?.outputs[link[1]] ?? []);
      }),
    );
  }

  async #changeTokens(ids: readonly string[]): Promise<Map<string, string>> {
    const tokens = new Map<string, string>();
    for (const id of ids) {
      const { definition, inputs } = this.#prompt.get(id);
      if (definition.changeToken === undefined) continue;
      const literals = Object.fromEntries(
        definition.inputs.flatMap(({ name }) => {
          const value = inputs.get(name);
          return value === undefined ? [] : [[name, asLink(value) === undefined ? value : null]];
        }),
      );
      tokens.set(id, await changeToken(() => definition.changeToken?.(literals)));
    }
    return tokens;
  }

  #context(node: RunningNode, callIndex: number): NodeContext {
    const { extraData, prompt, promptId, clientId } = this.#item;
    const pngInfo = extraData.get('extra_pnginfo');
    const place = {
      nodeId: node.id,
      promptId,
      displayNodeId: node.displayId,
      parentNodeId: node.parentId,
      realNodeId: node.realId,
    };
    const preview = (moment: 'before-progress' | 'after-progress', image: PreviewImage | undefined): void => {
      if (image !== undefined) this.#options.emit({ kind: 'preview', to: clientId, moment, image, place });
    };
    return {
      promptId,
      nodeId: node.id,
      prompt,
      extraPngInfo: isJsonObject(pngInfo) ? pngInfo : undefined,
      expansionPrefix: `${node.id}.${callIndex}.0.`,
      state: this.#cache.state(this.#prompt, node.id),
      signal: this.#signal,
      reportProgress: (value, max, image) => {
        this.#throwIfInterrupted();
        this.#progress.update(node.id, value, max);
        this.#emitProgressState();
        preview('before-progress', image);
        this.#emit('progress', { value, max, prompt_id: promptId, node: node.id });
        preview('after-progress', image);
      },
      sendText: (text) => {
        this.#options.emit({ kind: 'text', to: undefined, nodeId: node.id, text });
      },
    };
  }

  #throwIfInterrupted(): void {
    if (this.#signal.aborted) throw new Interrupted('interrupted', { cause: cancelledError() });
  }

  #finish(id: string): void {
    this.#progress.finish(id);
    this.#emitProgressState();
  }

  #emitProgressState(): void {
    this.#emit('progress_state', this.#progress.event());
  }

  /** To the prompt's client, or to everybody when it has none. */
  #emit(type: string, data: Readonly<Record<string, Jsonable>>): void {
    this.#options.emit({ kind: 'json', to: this.#item.clientId, type, data });
  }

  /** To the prompt's client only. */
  #emitToClient(type: string, data: Readonly<Record<string, Jsonable>>): void {
    if (this.#item.clientId !== undefined) this.#emit(type, data);
  }

  /** A lifecycle event: kept for the history, sent to the client, or to everybody with `isBroadcast`. */
  #addMessage(type: string, data: Readonly<Record<string, Jsonable>>, isBroadcast = false): void {
    const whole = { ...data, prompt_id: this.#item.promptId, timestamp: this.#options.now() };
    this.#messages.push([type, whole]);
    if (isBroadcast) this.#emit(type, whole);
    else this.#emitToClient(type, whole);
  }

  #reportFailure(node: RunningNode, failure: unknown, inputs: Readonly<Record<string, Jsonable>>): void {
    const place = {
      node_id: node.realId,
      node_type: this.#prompt.get(node.realId).definition.classType,
      executed: [...this.#executed],
    };
    if (failure instanceof Interrupted || (this.#signal.aborted && isCancellation(failure))) {
      this.#addMessage('execution_interrupted', place, true);
      return;
    }
    this.#addMessage('execution_error', {
      ...place,
      exception_message: `${messageOf(failure)}\n`,
      exception_type: pythonTypeOf(failure),
      traceback: tracebackOf(failure),
      current_inputs: inputs,
      current_outputs: this.#prompt.ids(),
    });
  }

  #reportBlocked(node: RunningNode, message: string): void {
    this.#emit('execution_error', {
      prompt_id: this.#item.promptId,
      node_id: node.id,
      node_type: node.definition.classType,
      executed: [...this.#executed],
      exception_message: `Execution Blocked: ${message}`,
      exception_type: 'ExecutionBlocked',
      traceback: [],
      current_inputs: [],
      current_outputs: [],
    });
  }

  /** Only expansion can make one: cycles of the client's own are refused before. */
  #reportCycle(): void {
    const [id = ''] = this.#item.outputs;
    this.#addMessage('execution_error', {
      node_id: id,
      node_type: this.#prompt.get(id).definition.classType,
      executed: [...this.#executed],
      exception_message: 'Dependency cycle detected',
      exception_type: 'graph.DependencyCycleError',
      traceback: [],
      current_inputs: [],
      current_outputs: this.#prompt.ids(),
    });
  }
}

let neverEqual = 0;

/** A text; one that equals no other for NaN and for a token that could not be made. */
async function changeToken(make: () => unknown): Promise<string> {
  try {
    const token = await make();
    if (!(typeof token === 'number' && Number.isNaN(token))) return JSON.stringify(token);
  } catch {
    // ComfyUI: a node whose change cannot be told has changed.
  }
  neverEqual += 1;
  return `never equal ${neverEqual}`;
}

function linkOf(value: unknown): readonly [string, number] | undefined {
  if (!Array.isArray(value) || value.length !== 2) return undefined;
  const [id, slot] = value as unknown[];
  return typeof id === 'string' && typeof slot === 'number' ? [id, slot] : undefined;
}
