/** Progress of the nodes of a prompt, and the `progress_state` event that shows all touched so far. */
import type { Jsonable } from '../protocol/json.js';
import type { RunningPrompt } from './running-prompt.js';

interface NodeProgress {
  value: number;
  max: number;
  state: 'running' | 'finished';
}

export class ProgressState {
  readonly #prompt: RunningPrompt;
  readonly #promptId: string;
  readonly #nodes = new Map<string, NodeProgress>();

  constructor(prompt: RunningPrompt, promptId: string) {
    this.#prompt = prompt;
    this.#promptId = promptId;
  }

  start(id: string): void {
    this.#nodes.set(id, { value: 0, max: 1, state: 'running' });
  }

  update(id: string, value: number, max: number): void {
    this.#nodes.set(id, { value, max, state: 'running' });
  }

  finish(id: string): void {
    const max = this.#nodes.get(id)?.max ?? 1;
    this.#nodes.set(id, { value: max, max, state: 'finished' });
  }

  /** Data of the event. */
  event(): Readonly<Record<string, Jsonable>> {
    const nodes = new Map<string, Jsonable>();
    for (const [id, { value, max, state }] of this.#nodes) {
      const { displayId, parentId, realId } = this.#prompt.get(id);
      nodes.set(id, {
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
    return { prompt_id: this.#promptId, nodes };
  }
}
