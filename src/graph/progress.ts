/** Progress of the nodes of a prompt, and the `progress_state` event that shows all touched so far. */
import type { Jsonable } from '../protocol/json.js';
import type { RunningPrompt } from './running-prompt.js';

type NodeProgress = Readonly<Record<string, Jsonable>> & { readonly max: number };

export class ProgressState {
  readonly #prompt: RunningPrompt;
  readonly #promptId: string;
  /** Never changed, only replaced: events share them, for a prompt of thousands of nodes sends thousands of events. */
  readonly #nodes = new Map<string, NodeProgress>();

  constructor(prompt: RunningPrompt, promptId: string) {
    this.#prompt = prompt;
    this.#promptId = promptId;
  }

  start(id: string): void {
    this.#set(id, 0, 1, 'running');
  }

  update(id: string, value: number, max: number): void {
    this.#set(id, value, max, 'running');
  }

  finish(id: string): void {
    const max = this.#nodes.get(id)?.max ?? 1;
    this.#set(id, max, max, 'finished');
  }

  /** Data of the event. */
  event(): Readonly<Record<string, Jsonable>> {
    return { prompt_id: this.#promptId, nodes: new Map(this.#nodes) };
  }

  #set(id: string, value: number, max: number, state: 'running' | 'finished'): void {
    const { displayId, parentId, realId } = this.#prompt.get(id);
    this.#nodes.set(id, {
      value,
      max,
      state,
      node_id: id,
      prompt_id: this.#promptId,
      display_node_id: displayId,
      parent_node_id: parentId,
      real_node_id: realId,
    });
  }
}
