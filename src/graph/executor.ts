/**
 * Runs one prompt at a time, with ComfyUI's events in ComfyUI's order.
 *
 * What a run tells is run-reporter.ts, the order of nodes execution-list.ts, the calls of a node node-call.ts.
 *
 * Source: ComfyUI 0.3.64, execution.py (`PromptExecutor`, `execute`), restated; test/golden/protocol holds recordings.
 */
import { abortable, cancelledError } from '../common/abort.js';
import { isJsonObject, type Jsonable, type JsonObject } from '../protocol/json.js';
import { asLink, type HistoryEntry, type QueueItem } from '../protocol/prompt.js';
import { askForChanges, withChanges } from './change-token.js';
import { ExecutionList } from './execution-list.js';
import { describeInputs, isCancellation } from './failure.js';
import { callInputs, callNode, gatherInputs, joinOutputs, joinUi, type GatheredInputs } from './node-call.js';
import type { NodeContext, NodeResult } from './node-definition.js';
import { PythonError } from './python-error.js';
import { ResultCache, type CachedResult } from './result-cache.js';
import { RunReporter, type ReporterOptions } from './run-reporter.js';
import { RunningPrompt, type RunningNode } from './running-prompt.js';
import type { NodeTable } from './validation.js';

export interface ExecutorOptions extends ReporterOptions {
  readonly table: NodeTable;
}

/** What an interrupt throws inside a node. */
class Interrupted extends Error {}

type ShownInputs = Readonly<Record<string, Jsonable>>;

/** `done`: it has its result. `again`: it waits for others, or for its own calls. */
type Outcome = 'done' | 'again' | { readonly failure: unknown; readonly inputs: ShownInputs };

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
  readonly #cache: ResultCache;
  readonly #item: QueueItem;
  /** Fires on interrupt. */
  readonly #interrupt: AbortSignal;
  /** Fires when the run is over, too: calls that are under way then have nobody to work for. */
  readonly #over = new AbortController();
  readonly #signal: AbortSignal;
  readonly #setRunningNode: (displayId: string) => void;
  readonly #prompt: RunningPrompt;
  readonly #list: ExecutionList;
  readonly #report: RunReporter;
  readonly #uiOf = new Map<string, NonNullable<CachedResult['ui']>>();
  /** Nodes that wait for the subgraphs that their calls made. */
  readonly #expanded = new Map<string, readonly NodeResult[]>();
  /** Asynchronous nodes whose calls are under way; each promise resolves when all calls of its node have settled. */
  readonly #underWay = new Map<string, Promise<void>>();
  readonly #settled = new Map<string, readonly PromiseSettledResult<NodeResult>[]>();
  #shownPrompt: JsonObject;

  constructor(
    options: ExecutorOptions,
    cache: ResultCache,
    item: QueueItem,
    signal: AbortSignal,
    setRunningNode: (displayId: string) => void,
  ) {
    this.#cache = cache;
    this.#item = item;
    this.#interrupt = signal;
    this.#signal = AbortSignal.any([signal, this.#over.signal]);
    this.#setRunningNode = setRunningNode;
    this.#prompt = new RunningPrompt(options.table, item.prompt);
    this.#list = new ExecutionList(this.#prompt, (id) => cache.get(id) !== undefined);
    this.#report = new RunReporter(options, item, this.#prompt);
    this.#shownPrompt = item.prompt;
  }

  async toEnd(): Promise<HistoryEntry> {
    this.#report.started();
    const ids = this.#prompt.ids();
    const { tokens, shown } = await askForChanges(this.#prompt, ids);
    this.#shownPrompt = withChanges(this.#item.prompt, shown);
    this.#cache.begin(this.#prompt, tokens);
    const cached = ids.filter((id) => this.#cache.get(id) !== undefined);
    for (const id of cached) {
      const ui = this.#cache.get(id)?.ui;
      if (ui !== undefined) this.#uiOf.set(id, ui);
    }
    this.#report.cached(cached);
    for (const id of this.#item.outputs) this.#list.add(id);
    let isCompleted: boolean;
    try {
      isCompleted = await this.#loop();
    } finally {
      this.#over.abort();
      await Promise.all(this.#underWay.values());
    }
    const messages = this.#report.messages;
    return {
      item: this.#item,
      outputs: new Map([...this.#uiOf].map(([id, { output }]) => [id, output])),
      meta: new Map([...this.#uiOf].map(([id, { meta }]) => [id, meta])),
      status: { status_str: isCompleted ? 'success' : 'error', completed: isCompleted, messages },
    };
  }

  async #loop(): Promise<boolean> {
    while (!this.#list.isEmpty) {
      const id = this.#list.next();
      if (id === undefined && this.#underWay.size === 0) {
        this.#report.cycle(this.#list.pendingIds);
        return false;
      }
      const node = this.#prompt.get(id ?? [...this.#underWay.keys()][0] ?? '');
      const outcome = id === undefined ? await this.#waitForCalls() : await this.#step(node);
      if (typeof outcome === 'object') {
        this.#reportFailure(node, outcome.failure, outcome.inputs);
        return false;
      }
      if (id !== undefined && outcome === 'done') this.#list.complete(id);
      else this.#list.unstage();
    }
    this.#report.succeeded();
    return true;
  }

  async #step(node: RunningNode): Promise<Outcome> {
    const known = this.#cache.get(node.id);
    if (known !== undefined) {
      this.#report.nodeShown(node, known.ui ?? null);
      if (known.ui !== undefined) this.#uiOf.set(node.id, known.ui);
      this.#report.nodeFinished(node);
      return 'done';
    }
    const expanded = this.#expanded.get(node.id);
    if (expanded !== undefined) {
      this.#expanded.delete(node.id);
      this.#store(node, this.#resolveExpanded(node, expanded), expanded);
      return this.#finish(node);
    }
    let shownInputs = (): ShownInputs => ({});
    try {
      const settled = this.#settled.get(node.id);
      if (settled !== undefined) {
        this.#settled.delete(node.id);
        return await this.#accept(node, settled.map(valueOf));
      }
      this.#report.nodeStarted(node);
      const gathered = gatherInputs(
        node,
        (id) => this.#cache.get(id),
        (id) => (this.#prompt.has(id) ? this.#prompt.get(id).definition.outputs.map(({ type }) => type) : []),
      );
      shownInputs = this.#describe(node, gathered.values);
      this.#setRunningNode(node.displayId);
      this.#report.nodeCalled(node);
      if (await this.#needsLazyInputs(node, gathered)) return 'again';
      const results = await callNode(node.definition, callInputs(node.definition, gathered.values), {
        context: (index) => this.#context(node, index),
        beforeCall: () => {
          this.#throwIfInterrupted();
        },
        onBlocked: (message) => {
          this.#report.blocked(node, message);
        },
      });
      if (node.definition.isAsync !== true) return await this.#accept(node, results as readonly NodeResult[]);
      return await this.#follow(node, results);
    } catch (failure) {
      return { failure, inputs: shownInputs() };
    }
  }

  /** Calls of an asynchronous node: taken at once where they are done already, waited for beside other nodes otherwise. */
  async #follow(node: RunningNode, results: readonly (NodeResult | Promise<NodeResult>)[]): Promise<Outcome> {
    const all = Promise.allSettled(results.map((result) => Promise.resolve(result)));
    const atOnce = await Promise.race([all, new Promise<undefined>((resolve) => setImmediate(resolve, undefined))]);
    if (atOnce !== undefined) return this.#accept(node, atOnce.map(valueOf));
    const unblock = this.#list.block(node.id);
    this.#underWay.set(
      node.id,
      all.then((settled) => {
        this.#settled.set(node.id, settled);
        this.#underWay.delete(node.id);
        unblock();
      }),
    );
    return 'again';
  }

  /** Nothing is ready until a call under way is done; an interrupt does not wait for it. */
  async #waitForCalls(): Promise<Outcome> {
    try {
      await abortable(Promise.race(this.#underWay.values()), this.#interrupt);
      return 'again';
    } catch (failure) {
      return { failure, inputs: {} };
    }
  }

  async #accept(node: RunningNode, results: readonly NodeResult[]): Promise<Outcome> {
    const subgraphs = results.flatMap(({ expand }) => (expand === undefined ? [] : [expand]));
    if (subgraphs.length > 0) {
      await this.#expand(node, subgraphs, results);
      return 'again';
    }
    const ui = this.#store(node, joinOutputs(node.definition, results), results);
    if (ui !== undefined) this.#report.nodeShown(node, ui);
    return this.#finish(node);
  }

  #finish(node: RunningNode): Outcome {
    this.#report.nodeFinished(node);
    this.#report.executed.add(node.id);
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

  async #needsLazyInputs(node: RunningNode, { values, missing }: GatheredInputs): Promise<boolean> {
    const { definition } = node;
    if (definition.neededLazyInputs === undefined) return false;
    const needed = new Set<string>();
    for (const inputs of callInputs(definition, values)) {
      for (const name of await definition.neededLazyInputs(inputs)) needed.add(name);
    }
    let isWaiting = false;
    for (const name of needed) {
      if (Object.hasOwn(values, name) && !missing.has(name)) continue;
      const link = asLink(node.inputs.get(name));
      if (link === undefined) {
        throw new PythonError(
          'comfy_execution.graph.NodeInputError',
          `Node ${node.id} says it needs input ${name}, but there is no input to that node at all`,
        );
      }
      isWaiting = this.#list.addDependency(node.id, link[0]) || isWaiting;
    }
    return isWaiting;
  }

  async #expand(node: RunningNode, subgraphs: readonly JsonObject[], results: readonly NodeResult[]): Promise<void> {
    const ids = subgraphs.flatMap((subgraph) => this.#prompt.expand(node.id, subgraph));
    this.#cache.extend(this.#prompt, ids, (await askForChanges(this.#prompt, ids)).tokens);
    this.#expanded.set(node.id, results);
    for (const id of ids) if (this.#prompt.get(id).definition.isOutputNode === true) this.#list.add(id);
    for (const { outputs = [] } of results) {
      for (const value of outputs) {
        const link = linkOf(value);
        if (link !== undefined) this.#list.addDependency(node.id, link[0]);
      }
    }
  }

  /** Links in the outputs of an expanding node become the values of the nodes they name. */
  #resolveExpanded(node: RunningNode, results: readonly NodeResult[]): unknown[][] {
    return node.definition.outputs.map((_output, slot) =>
      results.flatMap((result): readonly unknown[] => {
        const value = result.outputs?.[slot];
        const link = result.expand === undefined ? undefined : linkOf(value);
        return link === undefined ? [value] : (this.#cache.get(link[0])?.outputs[link[1]] ?? []);
      }),
    );
  }

  #context(node: RunningNode, callIndex: number): NodeContext {
    return {
      promptId: this.#item.promptId,
      nodeId: node.id,
      prompt: this.#shownPrompt,
      extraPngInfo: this.#extraPngInfo,
      expansionPrefix: `${node.id}.${callIndex}.0.`,
      state: this.#cache.state(this.#prompt, node.id),
      signal: this.#signal,
      reportProgress: (value, max, image) => {
        this.#throwIfInterrupted();
        this.#report.progress(node, value, max, image);
      },
      throwIfInterrupted: () => {
        this.#throwIfInterrupted();
      },
      sendText: (text) => {
        this.#report.text(node, text);
      },
    };
  }

  get #extraPngInfo(): JsonObject | undefined {
    const given = this.#item.extraData.get('extra_pnginfo');
    return isJsonObject(given) ? given : undefined;
  }

  #describe(node: RunningNode, values: GatheredInputs['values']): () => ShownInputs {
    const hidden = { nodeId: node.id, prompt: this.#shownPrompt, extraPngInfo: this.#extraPngInfo };
    return () => describeInputs(node.definition, values, hidden);
  }

  #throwIfInterrupted(): void {
    if (this.#signal.aborted) throw new Interrupted('interrupted', { cause: cancelledError() });
  }

  #reportFailure(node: RunningNode, failure: unknown, inputs: ShownInputs): void {
    if (failure instanceof Interrupted || (this.#interrupt.aborted && isCancellation(failure)))
      this.#report.interrupted(node);
    else this.#report.failed(node, failure, inputs);
  }
}

function valueOf(settled: PromiseSettledResult<NodeResult>): NodeResult {
  if (settled.status === 'rejected') throw settled.reason;
  return settled.value;
}

function linkOf(value: unknown): readonly [string, number] | undefined {
  if (!Array.isArray(value) || value.length !== 2) return undefined;
  const [id, slot] = value as unknown[];
  return typeof id === 'string' && typeof slot === 'number' ? [id, slot] : undefined;
}
