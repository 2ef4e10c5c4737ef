/**
 * The order in which the nodes of a prompt run.
 *
 * Selected outputs and their ancestors, lazy inputs and cached ancestors left out. Of the nodes that are ready: output
 * and asynchronous nodes first, then what feeds an output, then what is two steps before one, then the earliest added.
 * A heap keeps the ready ones, so that a prompt of many nodes costs little more than its length.
 *
 * Source: ComfyUI, comfy_execution/graph.py; the order is recorded in the protocol scenarios.
 */
import { asLink } from '../protocol/prompt.js';
import { Heap } from './heap.js';
import type { RunningPrompt } from './running-prompt.js';

/** How near to an output: the lower, the sooner. */
type Rank = 0 | 1 | 2 | 3;

interface PendingNode {
  readonly id: string;
  /** Place in the order of insertion. */
  readonly index: number;
  /** Nodes, and calls under way, that this one waits for. */
  waitsFor: number;
  rank: Rank;
  readonly isOutput: boolean;
  /** An output waits for it. */
  feedsOutput: boolean;
  readonly sources: PendingNode[];
  readonly followers: Set<PendingNode>;
}

interface ReadyNode {
  readonly node: PendingNode;
  /** Its rank when it was queued; a later, better rank queues it again. */
  readonly rank: Rank;
}

export class ExecutionList {
  readonly #prompt: RunningPrompt;
  readonly #isCached: (id: string) => boolean;
  readonly #pending = new Map<string, PendingNode>();
  readonly #ready = new Heap<ReadyNode>((a, b) => a.rank - b.rank || a.node.index - b.node.index);
  #count = 0;
  #staged: PendingNode | undefined;

  constructor(prompt: RunningPrompt, isCached: (id: string) => boolean) {
    this.#prompt = prompt;
    this.#isCached = isCached;
  }

  get isEmpty(): boolean {
    return this.#pending.size === 0;
  }

  /** Nodes still to run, in order of insertion. */
  get pendingIds(): string[] {
    return [...this.#pending.keys()];
  }

  /** Adds a node and all ancestors that it needs. */
  add(root: string): void {
    const stack = [root];
    const links: [string, PendingNode][] = [];
    const added: PendingNode[] = [];
    for (let id = stack.pop(); id !== undefined; id = stack.pop()) {
      if (this.#pending.has(id)) continue;
      const node = this.#insert(id);
      added.push(node);
      const { inputs, definition } = this.#prompt.get(id);
      const lazy = new Set(
        definition.inputs.filter(({ options }) => options?.['lazy'] === true).map(({ name }) => name),
      );
      for (const [name, value] of inputs) {
        const link = asLink(value);
        if (link === undefined || !this.#prompt.has(link[0]) || lazy.has(name) || this.#isCached(link[0])) continue;
        stack.push(link[0]);
        links.push([link[0], node]);
      }
    }
    for (const [from, to] of links) this.#link(from, to);
    for (const node of added) this.#queueIfReady(node);
  }

  /** Makes a node wait for another, which is added if it is not there; false when that one has its result already. */
  addDependency(id: string, source: string): boolean {
    const node = this.#pending.get(id);
    if (node === undefined || this.#isCached(source)) return false;
    this.add(source);
    this.#link(source, node);
    return true;
  }

  /** The node to run now; undefined when none is ready: calls are under way, or the rest is a cycle. */
  next(): string | undefined {
    for (let top = this.#ready.pop(); top !== undefined; top = this.#ready.pop()) {
      const { node, rank } = top;
      if (this.#pending.get(node.id) !== node || node.waitsFor > 0 || node.rank !== rank) continue;
      this.#staged = node;
      return node.id;
    }
    return undefined;
  }

  /** The node that `next` gave needs another turn: now, or when what it waits for is done. */
  unstage(): void {
    const node = this.#staged;
    this.#staged = undefined;
    if (node !== undefined) this.#queueIfReady(node);
  }

  /** A call of a node goes on by itself; the node is not ready until the function given back is called. */
  block(id: string): () => void {
    const node = this.#pending.get(id);
    if (node === undefined) throw new Error(`node ${id} is not waiting to run`);
    node.waitsFor += 1;
    return () => {
      this.#release(node);
    };
  }

  /** A node has its result: those that wait for it wait no more. */
  complete(id: string): void {
    const node = this.#pending.get(id);
    if (node === undefined) return;
    this.#pending.delete(id);
    this.#staged = undefined;
    for (const follower of node.followers) this.#release(follower);
  }

  #insert(id: string): PendingNode {
    const { definition } = this.#prompt.get(id);
    const isOutput = definition.isOutputNode === true;
    const node: PendingNode = {
      id,
      index: this.#count,
      waitsFor: 0,
      rank: isOutput || definition.isAsync === true ? 0 : 3,
      isOutput,
      feedsOutput: false,
      sources: [],
      followers: new Set(),
    };
    this.#count += 1;
    this.#pending.set(id, node);
    return node;
  }

  #link(source: string, to: PendingNode): void {
    const from = this.#pending.get(source);
    if (from === undefined || from.followers.has(to)) return;
    from.followers.add(to);
    to.sources.push(from);
    to.waitsFor += 1;
    if (to.isOutput) this.#markFeeding(from);
    if (to.feedsOutput) this.#improve(from, 2);
  }

  #markFeeding(node: PendingNode): void {
    if (node.feedsOutput) return;
    node.feedsOutput = true;
    this.#improve(node, 1);
    for (const source of node.sources) this.#improve(source, 2);
  }

  #improve(node: PendingNode, rank: Rank): void {
    if (node.rank <= rank) return;
    node.rank = rank;
    this.#queueIfReady(node);
  }

  #release(node: PendingNode): void {
    node.waitsFor -= 1;
    this.#queueIfReady(node);
  }

  #queueIfReady(node: PendingNode): void {
    if (node.waitsFor > 0 || this.#staged === node || this.#pending.get(node.id) !== node) return;
    this.#ready.push({ node, rank: node.rank });
  }
}
