/**
 * What a run tells: lifecycle events, which the history keeps, progress, and the ui outputs of nodes.
 *
 * Events of a prompt go to its client alone; a few go to everybody where the prompt names none.
 *
 * Source: ComfyUI 0.3.64, execution.py (`add_message`, `handle_execution_error`); recorded in the protocol scenarios.
 */
import { messageOf } from '../common/errors.js';
import type { Jsonable } from '../protocol/json.js';
import type { QueueItem, StatusMessage } from '../protocol/prompt.js';
import type { GraphListener } from './events.js';
import { tracebackOf } from './failure.js';
import type { PreviewImage } from './node-definition.js';
import { ProgressState } from './progress.js';
import type { CachedResult } from './result-cache.js';
import type { RunningNode, RunningPrompt } from './running-prompt.js';
import { pythonTypeOf } from './python-error.js';

type EventData = Readonly<Record<string, Jsonable>>;

export interface ReporterOptions {
  readonly emit: GraphListener;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

export class RunReporter {
  readonly messages: StatusMessage[] = [];
  /** Nodes that finished in this run, cached ones aside. */
  readonly executed = new Set<string>();
  readonly #options: ReporterOptions;
  readonly #item: QueueItem;
  readonly #prompt: RunningPrompt;
  readonly #progress: ProgressState;

  constructor(options: ReporterOptions, item: QueueItem, prompt: RunningPrompt) {
    this.#options = options;
    this.#item = item;
    this.#prompt = prompt;
    this.#progress = new ProgressState(prompt, item.promptId);
  }

  started(): void {
    this.#addMessage('execution_start', {});
  }

  cached(nodes: readonly string[]): void {
    this.#addMessage('execution_cached', { nodes });
  }

  succeeded(): void {
    this.#addMessage('execution_success', {});
  }

  nodeStarted(node: RunningNode): void {
    this.#progress.start(node.id);
    this.#emitProgressState();
  }

  nodeCalled(node: RunningNode): void {
    const { promptId } = this.#item;
    this.#emitToClient('executing', { node: node.id, display_node: node.displayId, prompt_id: promptId });
  }

  /** @param ui What the node shows; null for a cached node without any. */
  nodeShown(node: RunningNode, ui: CachedResult['ui'] | null): void {
    this.#emitToClient('executed', {
      node: node.id,
      display_node: node.displayId,
      output: ui?.output ?? null,
      prompt_id: this.#item.promptId,
    });
  }

  nodeFinished(node: RunningNode): void {
    this.#progress.finish(node.id);
    this.#emitProgressState();
  }

  progress(node: RunningNode, value: number, max: number, image: PreviewImage | undefined): void {
    this.#progress.update(node.id, value, max);
    this.#emitProgressState();
    this.#preview(node, 'before-progress', image);
    this.#emit('progress', { value, max, prompt_id: this.#item.promptId, node: node.id });
    this.#preview(node, 'after-progress', image);
  }

  text(node: RunningNode, text: string): void {
    this.#options.emit({ kind: 'text', to: undefined, nodeId: node.id, text });
  }

  interrupted(node: RunningNode): void {
    this.#addMessage('execution_interrupted', this.#placeOf(node), true);
  }

  failed(node: RunningNode, failure: unknown, inputs: EventData): void {
    this.#addMessage('execution_error', {
      ...this.#placeOf(node),
      exception_message: `${messageOf(failure)}\n`,
      exception_type: pythonTypeOf(failure),
      traceback: tracebackOf(failure),
      current_inputs: inputs,
      current_outputs: this.#prompt.ids(),
    });
  }

  /** A blocker with a message: told as an error, though the prompt goes on. */
  blocked(node: RunningNode, message: string): void {
    this.#emit('execution_error', {
      prompt_id: this.#item.promptId,
      node_id: node.id,
      node_type: node.definition.classType,
      executed: [...this.executed],
      exception_message: `Execution Blocked: ${message}`,
      exception_type: 'ExecutionBlocked',
      traceback: [],
      current_inputs: [],
      current_outputs: [],
    });
  }

  /** Only expansion can make a cycle: those of the client's own are refused before. Blames the node that expanded. */
  cycle(pendingIds: readonly string[]): void {
    const blamed = pendingIds.map((id) => this.#prompt.get(id)).find(({ id, displayId }) => id !== displayId);
    const id = blamed?.displayId ?? pendingIds[0] ?? '';
    this.#addMessage('execution_error', {
      prompt_id: this.#item.promptId,
      node_id: id,
      node_type: this.#prompt.get(id).definition.classType,
      executed: [...this.executed],
      exception_message: 'Dependency cycle detected',
      exception_type: 'graph.DependencyCycleError',
      traceback: [],
      current_inputs: [],
      current_outputs: this.#prompt.ids(),
    });
  }

  #placeOf(node: RunningNode): EventData {
    return {
      prompt_id: this.#item.promptId,
      node_id: node.realId,
      node_type: this.#prompt.get(node.realId).definition.classType,
      executed: [...this.executed],
    };
  }

  #preview(node: RunningNode, moment: 'before-progress' | 'after-progress', image: PreviewImage | undefined): void {
    if (image === undefined) return;
    const place = {
      nodeId: node.id,
      promptId: this.#item.promptId,
      displayNodeId: node.displayId,
      parentNodeId: node.parentId,
      realNodeId: node.realId,
    };
    this.#options.emit({ kind: 'preview', to: this.#item.clientId, moment, image, place });
  }

  /** Lists all nodes so far, so it is made only where somebody reads it: a long prompt would spend its time on it. */
  #emitProgressState(): void {
    const progress = this.#progress;
    this.#options.emit({
      kind: 'json',
      to: this.#item.clientId,
      type: 'progress_state',
      get data() {
        return progress.event();
      },
    });
  }

  /** To the prompt's client, or to everybody when it has none. */
  #emit(type: string, data: EventData): void {
    this.#options.emit({ kind: 'json', to: this.#item.clientId, type, data });
  }

  /** To the prompt's client only. */
  #emitToClient(type: string, data: EventData): void {
    if (this.#item.clientId !== undefined) this.#emit(type, data);
  }

  /** A lifecycle event: kept for the history, sent to the client, or to everybody with `isBroadcast`. */
  #addMessage(type: string, data: EventData, isBroadcast = false): void {
    const whole = { ...data, prompt_id: this.#item.promptId, timestamp: this.#options.now() };
    this.messages.push([type, whole]);
    if (isBroadcast) this.#emit(type, whole);
    else this.#emitToClient(type, whole);
  }
}
