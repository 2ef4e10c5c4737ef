/**
 * Calling a node: gathering inputs, mapping over lists, passing blockers on, joining results.
 *
 * Internally every value is a list. A normal node is called once per index up to the longest input, shorter lists
 * repeating their last value; a node that takes lists is called once. The calls of an asynchronous node run side by side.
 *
 * Source: ComfyUI, execution.py (`get_input_data`, `_async_map_node_over_list`, `merge_result_data`), restated.
 */
import { asFloat, withoutFloatMark, type Jsonable } from '../protocol/json.js';
import { asLink, literalOf } from '../protocol/prompt.js';
import type { ExecutionBlocker, NodeContext, NodeDefinition, NodeInputs, NodeResult } from './node-definition.js';
import { PythonError } from './python-error.js';
import type { CachedResult } from './result-cache.js';
import type { RunningNode } from './running-prompt.js';

/** Input name to list of values; inputs whose source has no result yet are null, and listed apart. */
export interface GatheredInputs {
  readonly values: Readonly<Record<string, readonly unknown[]>>;
  readonly missing: ReadonlySet<string>;
}

/** @param typesOf Output types of a node of the prompt, by id. */
export function gatherInputs(
  node: RunningNode,
  resultOf: (id: string) => CachedResult | undefined,
  typesOf: (id: string) => readonly string[],
): GatheredInputs {
  const values: Record<string, readonly unknown[]> = {};
  const missing = new Set<string>();
  const inputs = new Map(node.definition.inputs.map((input) => [input.name, input]));
  // In the order of the prompt, as the node is called and errors show them.
  for (const [name, value] of node.inputs) {
    const input = inputs.get(name);
    if (input === undefined) continue;
    const link = input.options?.['rawLink'] === true ? undefined : asLink(value);
    if (link === undefined) {
      values[name] = forInput(input.type, '*', [literalOf(value)]);
      continue;
    }
    const types = typesOf(link[0]);
    const slot = link[1] < 0 ? link[1] + types.length : link[1];
    const output = resultOf(link[0])?.outputs[slot];
    if (output === undefined) missing.add(name);
    values[name] = forInput(input.type, types[slot] ?? '*', output ?? [null]);
  }
  return { values, missing };
}

/** Nodes calculate with plain numbers; only an input that takes anything is told that a number is a float. */
function forInput(type: string, from: string, values: readonly unknown[]): readonly unknown[] {
  if (type !== '*') return values.map(withoutFloatMark);
  return from === 'FLOAT' ? values.map((value) => (typeof value === 'number' ? asFloat(value) : value)) : values;
}

export function isBlocker(value: unknown): value is ExecutionBlocker {
  return typeof value === 'object' && value !== null && 'kind' in value && value.kind === 'execution-blocker';
}

/** Inputs of every call. @throws {PythonError} `IndexError` when some lists are empty and others are not */
export function callInputs(definition: NodeDefinition, values: GatheredInputs['values']): NodeInputs[] {
  if (definition.takesLists === true) return [values];
  const lengths = Object.values(values).map((list) => list.length);
  // Hidden inputs of the older form count as inputs of their own.
  if (definition.api === 'v1' && definition.hidden !== undefined) lengths.push(1);
  const longest = Math.max(0, ...lengths);
  if (longest === 0) return [{}];
  if (lengths.includes(0)) throw new PythonError('IndexError', 'list index out of range');
  return Array.from({ length: longest }, (_none, index) =>
    Object.fromEntries(Object.entries(values).map(([name, list]) => [name, list[Math.min(index, list.length - 1)]])),
  );
}

export interface CallOptions {
  readonly context: (callIndex: number) => NodeContext;
  /** A blocked call: told once, and passed on without its message. */
  readonly onBlocked: (message: string) => void;
  readonly beforeCall: () => void;
}

/** Results of all calls of a node, in order; those of an asynchronous node may still be under way. */
export async function callNode(
  definition: NodeDefinition,
  inputs: readonly NodeInputs[],
  options: CallOptions,
): Promise<readonly (NodeResult | Promise<NodeResult>)[]> {
  const results: (NodeResult | Promise<NodeResult>)[] = [];
  for (const [index, values] of inputs.entries()) {
    options.beforeCall();
    const blocker = Object.values(values).find(
      (value) => isBlocker(value) || (Array.isArray(value) && value.some(isBlocker)),
    );
    if (blocker !== undefined) {
      const found = isBlocker(blocker) ? blocker : (blocker as readonly unknown[]).find(isBlocker);
      if (found?.message !== undefined) options.onBlocked(found.message);
      results.push({ outputs: definition.outputs.map((): ExecutionBlocker => ({ kind: 'execution-blocker' })) });
    } else if (definition.isAsync === true) {
      results.push(Promise.resolve(definition.execute(values, options.context(index))));
    } else {
      results.push(await definition.execute(values, options.context(index)));
    }
  }
  return results;
}

/** One list per output: values of the calls in order, list outputs joined. No outputs where no call gave any. */
export function joinOutputs(definition: NodeDefinition, results: readonly NodeResult[]): unknown[][] {
  const given = results.flatMap(({ outputs }) => (outputs === undefined ? [] : [outputs]));
  if (given.length === 0) return [];
  return definition.outputs.map(({ isList }, slot) =>
    given.flatMap((outputs) => {
      const value = outputs[slot];
      return isList === true && Array.isArray(value) ? (value as unknown[]) : [value];
    }),
  );
}

/** Ui outputs of the calls, joined per key; keys are the first call's. */
export function joinUi(results: readonly NodeResult[]): Readonly<Record<string, readonly Jsonable[]>> | undefined {
  const parts = results.flatMap(({ ui }) => (ui === undefined ? [] : [ui]));
  const [first] = parts;
  if (first === undefined) return undefined;
  return Object.fromEntries(Object.keys(first).map((key) => [key, parts.flatMap((part) => part[key] ?? [])]));
}
