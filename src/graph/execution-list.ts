/**
 * The order in which the nodes of a prompt run.
 *
 * Selected outputs and their ancestors, lazy inputs and cached ancestors left out. Of the nodes that are ready: output
 * nodes first, then what feeds an output, then what is two steps before one, then the earliest added.
 *
 * Source: ComfyUI, comfy_execution/graph.py; the order is recorded in the protocol scenarios.
 */
import { asLink } from '../protocol/prompt.js';
import type { RunningPrompt } from './running-prompt.js';

export class ExecutionList {
  readonly #prompt: RunningPrompt;
  readonly #isCached: (id: string) => boolean;
  /** Nodes still to run, in order of insertion, with the number of nodes they wait for. */
  readonly #waitsFor = new Map<string, number>();
  /** For every node, those that wait for it. */
  readonly #blocks = new Map<string, Set<string>>();

  constructor(prompt: RunningPrompt, isCached: (id: string) => boolean) {
    this.#prompt = prompt;
    this.#isCached = isCached;
  }

  get isEmpty(): boolean {
    return this.#waitsFor.size === 0;
  }

  /** Adds a node and all ancestors that it needs. */
  add(root: string): void {
    const stack = [root];
    const links: [string, string][] = [];
    for (let id = stack.pop(); id !== undefined; id = stack.pop()) {
      if (this.#waitsFor.has(id)) continue;
      this.#waitsFor.set(id, 0);
      this.#blocks.set(id, new Set());
      const { inputs, definition } = this.#prompt.get(id);
      for (const [name, value] of inputs) {
        const link = asLink(value);
        if (link === undefined || !this.#prompt.has(link[0])) continue;
        const isLazy = definition.inputs.find((input) => input.name === name)?.options?.['lazy'] === true;
        if (isLazy || this.#isCached(link[0])) continue;
        stack.push(link[0]);
        links.push([link[0], id]);
      }
    }
    for (const [from, to] of links) this.#link(from, to);
  }

  /** Makes a node wait for another, which is added if it is not there; false when that one has its result already. */
  addDependency(id: string, source: string): boolean {
    if (this.#isCached(source)) return false;
    this.add(source);
    this.#link(source, id);
    return true;
  }

  /** The node to run now; undefined when none is ready though some remain: a cycle. */
  next(): string | undefined {
    const ready = [...this.#waitsFor].filter(([, count]) => count === 0).map(([id]) => id);
    const isOutput = (id: string): boolean => this.#prompt.get(id).definition.isOutputNode === true;
    const followers = (id: string): string[] => [...(this.#blocks.get(id) ?? [])];
    return (
      ready.find((id) => isOutput(id) || this.#prompt.get(id).definition.isAsync === true) ??
      ready.find((id) => followers(id).some(isOutput)) ??
      ready.find((id) => followers(id).some((follower) => followers(follower).some(isOutput))) ??
      ready[0]
    );
  }

  /** A node has its result: those that wait for it wait no more. */
  complete(id: string): void {
    for (const follower of this.#blocks.get(id) ?? [])
      this.#waitsFor.set(follower, (this.#waitsFor.get(follower) ?? 1) - 1);
    this.#blocks.delete(id);
    this.#waitsFor.delete(id);
  }

  #link(from: string, to: string): void {
    const followers = this.#blocks.get(from);
    if (followers === undefined || followers.has(to)) return;
    followers.add(to);
    this.#waitsFor.set(to, (this.#waitsFor.get(to) ?? 0) + 1);
  }
}
