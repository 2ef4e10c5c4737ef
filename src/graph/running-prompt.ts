/** The nodes of a running prompt: those of the client, and those that nodes made in their own place. */
import { isJsonObject, type JsonObject } from '../protocol/json.js';
import type { Prompt } from '../protocol/prompt.js';
import type { NodeDefinition } from './node-definition.js';
import { PythonError } from './python-error.js';
import type { NodeTable } from './validation.js';

export interface RunningNode {
  readonly id: string;
  readonly definition: NodeDefinition;
  readonly inputs: JsonObject;
  /** The node that made this one; null for nodes of the client. */
  readonly parentId: string | null;
  /** The node of the client that this one stands for on the screen. */
  readonly displayId: string;
  readonly realId: string;
}

export class RunningPrompt {
  readonly #table: NodeTable;
  readonly #nodes = new Map<string, RunningNode>();

  constructor(table: NodeTable, prompt: Prompt) {
    this.#table = table;
    for (const [id, node] of prompt) this.#add(id, node, null, id, id);
  }

  get(id: string): RunningNode {
    const node = this.#nodes.get(id);
    if (node === undefined) throw new Error(`node ${id} is not part of this prompt`);
    return node;
  }

  has(id: string): boolean {
    return this.#nodes.has(id);
  }

  ids(): string[] {
    return [...this.#nodes.keys()];
  }

  /** Adds the subgraph of an expanding node; gives the ids of its nodes. */
  expand(parentId: string, subgraph: JsonObject): string[] {
    const parent = this.get(parentId);
    const duplicate = [...subgraph.keys()].find((id) => this.#nodes.has(id));
    if (duplicate !== undefined) {
      throw new PythonError(
        'comfy_execution.graph.DuplicateNodeError',
        `Attempt to add duplicate node ${duplicate}. Ids of an expansion are unique and the same on every run.`,
      );
    }
    for (const [id, node] of subgraph) {
      const display = isJsonObject(node) ? node.get('override_display_id') : undefined;
      this.#add(id, node, parentId, typeof display === 'string' ? display : parent.displayId, parent.realId);
    }
    return [...subgraph.keys()];
  }

  #add(id: string, node: unknown, parentId: string | null, displayId: string, realId: string): void {
    if (!(node instanceof Map)) throw new Error(`node ${id} is not an object`);
    const { class_type: classType, inputs } = Object.fromEntries(node as JsonObject);
    const definition = typeof classType === 'string' ? this.#table.get(classType) : undefined;
    if (definition === undefined) throw new Error(`node ${id} has an unknown class`);
    this.#nodes.set(id, {
      id,
      definition,
      inputs: isJsonObject(inputs) ? inputs : new Map(),
      parentId,
      displayId,
      realId,
    });
  }
}
