/**
 * Results between prompts: ComfyUI's "classic" cache.
 *
 * A result is known by what it was made from: class, change token, literals, and the same of every ancestor; not by node
 * ids, unless the node asks for its id or is declared not idempotent. At the start of a prompt, results that belong to
 * none of its nodes are dropped. Sockets of links count, and values that cannot be compared never match.
 */
import { createHash } from 'node:crypto';
import { isJsonObject, withoutFloatMark, writeJson, type JsonValue } from '../protocol/json.js';
import { asLink } from '../protocol/prompt.js';
import type { Jsonable } from '../protocol/json.js';
import type { RunningPrompt } from './running-prompt.js';

export interface CachedResult {
  /** One list of values per output. */
  readonly outputs: readonly (readonly unknown[])[];
  readonly ui?: {
    readonly output: Readonly<Record<string, readonly Jsonable[]>>;
    readonly meta: Readonly<Record<string, Jsonable>>;
  };
}

/** Change tokens by node id; a node without a token of its own has none. */
export type ChangeTokens = ReadonlyMap<string, string>;

export class ResultCache {
  #results = new Map<string, CachedResult>();
  #states = new Map<string, Map<string, unknown>>();
  #signatures = new Map<string, string>();

  /** Starts a prompt: keys for its nodes, and nothing kept that none of them has. */
  begin(prompt: RunningPrompt, tokens: ChangeTokens): void {
    this.#signatures = signatures(prompt, prompt.ids(), tokens, new Map());
    const wanted = new Set(this.#signatures.values());
    this.#results = new Map([...this.#results].filter(([signature]) => wanted.has(signature)));
    const states = new Set(prompt.ids().map((id) => stateKey(prompt, id)));
    this.#states = new Map([...this.#states].filter(([key]) => states.has(key)));
  }

  /** Keys for nodes that were added while the prompt runs. */
  extend(prompt: RunningPrompt, ids: readonly string[], tokens: ChangeTokens): void {
    this.#signatures = signatures(prompt, ids, tokens, this.#signatures);
  }

  get(id: string): CachedResult | undefined {
    const signature = this.#signatures.get(id);
    return signature === undefined ? undefined : this.#results.get(signature);
  }

  set(id: string, result: CachedResult): void {
    const signature = this.#signatures.get(id);
    if (signature !== undefined) this.#results.set(signature, result);
  }

  /** What a node keeps for itself over consecutive prompts, by id and class. */
  state(prompt: RunningPrompt, id: string): Map<string, unknown> {
    const key = stateKey(prompt, id);
    const state = this.#states.get(key) ?? new Map<string, unknown>();
    this.#states.set(key, state);
    return state;
  }

  clear(): void {
    this.#results.clear();
    this.#states.clear();
  }
}

function stateKey(prompt: RunningPrompt, id: string): string {
  return `${prompt.get(id).definition.classType}\0${id}`;
}

/** Signatures of nodes, ancestors first; a hash over hashes, so that a long chain costs no more than its length. */
function signatures(
  prompt: RunningPrompt,
  ids: readonly string[],
  tokens: ChangeTokens,
  known: ReadonlyMap<string, string>,
): Map<string, string> {
  const done = new Map(known);
  const stack = [...ids].reverse();
  const open = new Set<string>();
  while (stack.length > 0) {
    const id = stack.at(-1) ?? '';
    if (done.has(id)) {
      stack.pop();
      continue;
    }
    const node = prompt.get(id);
    const links = [...node.inputs.values()].map(asLink).filter((link) => link !== undefined && prompt.has(link[0]));
    const missing = links.map((link) => link?.[0] ?? '').filter((source) => !done.has(source) && !open.has(source));
    if (missing.length > 0 && !open.has(id)) {
      open.add(id);
      stack.push(...missing);
      continue;
    }
    stack.pop();
    const usesId =
      node.definition.notIdempotent === true || Object.values(node.definition.hidden ?? {}).includes('UNIQUE_ID');
    const parts = [node.definition.classType, tokens.get(id) ?? '', usesId ? id : ''];
    for (const [name, value] of [...node.inputs].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const link = asLink(value);
      parts.push(name, link === undefined ? canonical(value) : `@${done.get(link[0]) ?? link[0]}:${link[1]}`);
    }
    done.set(id, createHash('sha256').update(parts.join('\0')).digest('base64'));
  }
  return done;
}

/** A text that two literals share when they are equal; the order of an object's keys does not matter. */
function canonical(value: JsonValue): string {
  if (Array.isArray(value)) return `[${value.map((entry: JsonValue) => canonical(entry)).join()}]`;
  if (!isJsonObject(value)) return writeJson(withoutFloatMark(value)); // 1.0 equals 1
  const entries = [...value].map(([key, entry]) => `${JSON.stringify(key)}:${canonical(entry)}`);
  return `{${entries.sort().join()}}`;
}
