/**
 * Validation of a prompt, with ComfyUI's own error objects.
 *
 * Nodes are validated once each, depth first from every selected output, along their declared inputs. The walk keeps its
 * own stack, so that the depth of a prompt is bounded by memory only. Literal values are converted on the way; the
 * prompt that comes out holds the converted ones.
 *
 * Intended difference: a cycle is reported as `dependency_cycle`, where ComfyUI 0.3.64 answers without any error.
 */
import { messageOf } from '../common/errors.js';
import { isJsonObject, withoutFloatMark, type JsonObject, type Jsonable, type JsonValue } from '../protocol/json.js';
import {
  asLink,
  literalOf,
  unwrapLiteral,
  wrapLiteral,
  type NodeErrors,
  type Prompt,
  type ValidationError,
} from '../protocol/prompt.js';
import { checkLink, checkLiteral, innerFailure, inputsOf, missingInput, type GraphDialect } from './input-checks.js';
import type { InputDefinition, NodeDefinition } from './node-definition.js';
import { inputConfig } from './object-info.js';
import { PythonError, pythonTypeOf } from './python-error.js';
import { pythonRepr, pythonStr } from './python-text.js';

export type NodeTable = ReadonlyMap<string, NodeDefinition>;

export type ValidationResult =
  | { readonly error: ValidationError; readonly nodeErrors: ReadonlyMap<string, NodeErrors> }
  | {
      readonly prompt: Prompt;
      readonly outputs: readonly string[];
      readonly nodeErrors: ReadonlyMap<string, NodeErrors>;
    };

/** @param targets Ids of the output nodes that shall run; undefined selects all. */
export async function validatePrompt(
  table: NodeTable,
  prompt: Prompt,
  targets: readonly string[] | undefined,
  dialect: GraphDialect = '0.3.64',
): Promise<ValidationResult> {
  const outputs: string[] = [];
  for (const [id, node] of prompt) {
    const classType = isJsonObject(node) ? node.get('class_type') : undefined;
    const refuse = (message: string): ValidationResult => ({
      error: wholePromptError('invalid_prompt', message, `Node ID '#${id}'`),
      nodeErrors: new Map(),
    });
    const isKnown = typeof classType === 'string' && table.has(classType);
    if (dialect === 'latest' && !isKnown) return { error: missingNodeType(id, node), nodeErrors: new Map() };
    if (classType === undefined) return refuse('Cannot execute because a node is missing the class_type property.');
    const definition = typeof classType === 'string' ? table.get(classType) : undefined;
    if (definition === undefined) return refuse(`Cannot execute because node ${pythonStr(classType)} does not exist.`);
    if (definition.isOutputNode === true && (targets === undefined || targets.includes(id))) outputs.push(id);
  }
  if (outputs.length === 0)
    return { error: wholePromptError('prompt_no_outputs', 'Prompt has no outputs', ''), nodeErrors: new Map() };
  return new Validation(table, prompt, dialect).run(outputs);
}

/** What newer versions say of a node without a class, or of one that is not there. */
function missingNodeType(id: string, node: JsonValue): ValidationError {
  const fieldOf = (value: JsonValue | undefined, name: string): JsonValue | undefined =>
    isJsonObject(value) ? value.get(name) : undefined;
  const classType = fieldOf(node, 'class_type');
  const title = fieldOf(fieldOf(node, '_meta'), 'title');
  const isUnnamed = classType === undefined || classType === null;
  const shown = typeof title === 'string' ? title : isUnnamed ? `ID #${id}` : pythonStr(classType);
  return {
    type: 'missing_node_type',
    message: isUnnamed
      ? `Node '${shown}' has no class_type. The workflow may be corrupted or a custom node is missing.`
      : `Node '${shown}' not found. The custom node may not be installed.`,
    details: `Node ID '#${id}'`,
    extra_info: {
      node_id: id,
      class_type: classType ?? null,
      node_title: typeof title === 'string' ? title : isUnnamed ? null : shown,
    },
  };
}

export function wholePromptError(type: string, message: string, details: string): ValidationError {
  return { type, message, details, extra_info: {} };
}

type Walk = Generator<string | Promise<unknown>, void, unknown>;
type Settled = { readonly value: unknown } | { readonly failure: unknown };

/** What a node's validation came to; `thrown` where ComfyUI's own code would raise. */
interface Outcome {
  isValid: boolean;
  readonly errors: ValidationError[];
  thrown?: { readonly message: string; readonly type: string };
}

class Validation {
  readonly #table: NodeTable;
  readonly #prompt: Prompt;
  readonly #dialect: GraphDialect;
  readonly #outcomes = new Map<string, Outcome>();
  readonly #converted = new Map<string, Map<string, JsonValue>>();
  readonly #dependents = new Map<string, string[]>();

  constructor(table: NodeTable, prompt: Prompt, dialect: GraphDialect) {
    this.#table = table;
    this.#prompt = prompt;
    this.#dialect = dialect;
  }

  async run(outputs: readonly string[]): Promise<ValidationResult> {
    const good: string[] = [];
    const details: string[] = [];
    for (const output of outputs) {
      await this.#walk(output);
      const outcome = this.#outcomes.get(output);
      if (outcome?.thrown !== undefined && outcome.errors.length === 0) this.#fileThrown(outcome, outcome.thrown);
      if (outcome?.isValid === true) {
        good.push(output);
        continue;
      }
      for (const { message, details: detail } of outcome?.errors ?? []) details.push(`${message}: ${detail}`);
      for (const [id, { isValid, errors }] of this.#outcomes) {
        if (isValid || errors.length === 0) continue;
        const dependents = this.#dependents.get(id) ?? [];
        dependents.push(output);
        this.#dependents.set(id, dependents);
      }
    }
    const nodeErrors = new Map<string, NodeErrors>();
    for (const [id, dependents] of this.#dependents) {
      nodeErrors.set(id, {
        errors: this.#outcomes.get(id)?.errors ?? [],
        dependent_outputs: dependents,
        class_type: this.#definition(id).classType,
      });
    }
    if (good.length === 0) {
      return {
        error: wholePromptError(
          'prompt_outputs_failed_validation',
          'Prompt outputs failed validation',
          details.join('\n'),
        ),
        nodeErrors,
      };
    }
    return { prompt: this.#convertedPrompt(), outputs: good, nodeErrors };
  }

  #convertedPrompt(): Prompt {
    const prompt = new Map(this.#prompt);
    for (const [id, changes] of this.#converted) {
      const node = prompt.get(id);
      if (!isJsonObject(node)) continue;
      const inputs = node.get('inputs');
      prompt.set(id, new Map(node).set('inputs', new Map([...(isJsonObject(inputs) ? inputs : []), ...changes])));
    }
    return prompt;
  }

  #definition(id: string): NodeDefinition {
    const node = this.#prompt.get(id);
    const classType = isJsonObject(node) ? node.get('class_type') : undefined;
    const definition = typeof classType === 'string' ? this.#table.get(classType) : undefined;
    if (definition === undefined) throw new PythonError('KeyError', pythonRepr(id));
    return definition;
  }

  /** Depth first with a stack of its own: a node's walk yields the ids it needs, and promises it waits for. */
  async #walk(root: string): Promise<void> {
    const stack: { readonly id: string; readonly steps: Walk }[] = [];
    const open = new Set<string>();
    const push = (id: string): void => {
      this.#outcomes.set(id, { isValid: true, errors: [] });
      open.add(id);
      stack.push({ id, steps: this.#validateNode(id) });
    };
    if (!this.#outcomes.has(root)) push(root);
    let answer: Settled = { value: undefined };
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const step: IteratorResult<string | Promise<unknown>> =
        'value' in answer ? top.steps.next(answer.value) : top.steps.throw(answer.failure);
      answer = { value: undefined };
      if (step.done === true) {
        open.delete(top.id);
        stack.pop();
      } else if (typeof step.value !== 'string') {
        answer = await step.value.then(
          (value): Settled => ({ value }),
          (failure: unknown): Settled => ({ failure }),
        );
      } else if (open.has(step.value)) {
        this.#fileCycle(
          stack.map(({ id }) => id),
          step.value,
        );
      } else if (!this.#outcomes.has(step.value)) {
        push(step.value);
      }
    }
  }

  *#validateNode(id: string): Walk {
    const outcome = this.#outcomes.get(id);
    if (outcome === undefined) return;
    try {
      const definition = this.#definition(id);
      const node = this.#prompt.get(id);
      const inputs = inputsOf(isJsonObject(node) ? node.get('inputs') : undefined);
      for (const input of definition.inputs) yield* this.#validateInput(id, definition, input, inputs, outcome);
      if (outcome.errors.length === 0 || definition.validator !== undefined)
        yield* this.#runValidator(definition, inputs, outcome, id);
    } catch (error) {
      outcome.isValid = false;
      outcome.errors.length = 0;
      outcome.thrown = { message: messageOf(error), type: pythonTypeOf(error) };
    }
    if (outcome.errors.length > 0) outcome.isValid = false;
  }

  *#validateInput(
    id: string,
    definition: NodeDefinition,
    input: InputDefinition,
    inputs: JsonObject,
    outcome: Outcome,
  ): Walk {
    const value = inputs.get(input.name);
    if (value === undefined) {
      if (input.optional !== true) {
        outcome.errors.push(missingInput(input));
      }
      return;
    }
    const config = (yield inputConfig(input, definition.api)) as readonly Jsonable[];
    if (Array.isArray(value))
      yield* this.#validateLink(definition, input, config, value as readonly JsonValue[], outcome);
    else yield* this.#validateLiteral(id, definition, input, config, value, outcome);
  }

  *#validateLink(
    definition: NodeDefinition,
    input: InputDefinition,
    config: readonly Jsonable[],
    link: readonly JsonValue[],
    outcome: Outcome,
  ): Walk {
    const { source, error } = yield* checkLink(definition, input, config, link, (id) => this.#definition(id));
    if (error !== undefined) outcome.errors.push(error);
    if (source === undefined) return;
    yield source;
    const upstream = this.#outcomes.get(source);
    if (upstream === undefined || upstream.isValid) return;
    outcome.isValid = false;
    const { thrown } = upstream;
    if (thrown === undefined || upstream.errors.length > 0) return;
    upstream.errors.push(innerFailure(input, config, link, thrown));
  }

  *#validateLiteral(
    id: string,
    definition: NodeDefinition,
    input: InputDefinition,
    config: readonly Jsonable[],
    received: JsonValue,
    outcome: Outcome,
  ): Walk {
    const { value, error } = yield* checkLiteral(definition, input, config, unwrapLiteral(received), this.#dialect);
    // What could be converted is kept so, also where it is out of bounds.
    if (value !== undefined) this.#storeConverted(id, input.name, wrapLiteral(value));
    if (error !== undefined) outcome.errors.push(error);
  }

  *#runValidator(definition: NodeDefinition, inputs: JsonObject, outcome: Outcome, id: string): Walk {
    const { validator } = definition;
    if (validator === undefined) return;
    const literals: Record<string, unknown> = {};
    for (const { name } of definition.inputs) {
      const converted = this.#converted.get(id)?.get(name);
      const given = inputs.get(name);
      if (given === undefined) continue;
      const value = converted === undefined ? unwrapLiteral(given) : literalOf(converted);
      // Links are null; so is, in ComfyUI, an unwrapped literal that looks like one.
      literals[name] = asLink(value) === undefined ? withoutFloatMark(value) : null;
    }
    const result = yield Promise.resolve(validator.check(literals));
    if (result === true) return;
    for (const name of validator.names.filter((candidate) => inputs.has(candidate))) {
      outcome.errors.push({
        type: 'custom_validation_failed',
        message: 'Custom validation failed for node',
        details: typeof result === 'string' ? `${name} - ${result}` : name,
        extra_info: { input_name: name },
      });
    }
  }

  #storeConverted(id: string, name: string, value: JsonValue): void {
    const changes = this.#converted.get(id) ?? new Map<string, JsonValue>();
    this.#converted.set(id, changes.set(name, value));
  }

  #fileThrown(outcome: Outcome, { message, type }: { message: string; type: string }): void {
    outcome.errors.push({
      type: 'exception_during_validation',
      message: 'Exception when validating node',
      details: message,
      extra_info: { exception_type: type, traceback: [] },
    });
  }

  #fileCycle(path: readonly string[], repeated: string): void {
    const cycle = path.slice(path.indexOf(repeated));
    const named = [...cycle, repeated].map((id) => `${id} (${this.#definition(id).classType})`).join(' -> ');
    for (const id of cycle) {
      const outcome = this.#outcomes.get(id);
      if (outcome === undefined || outcome.errors.some(({ type }) => type === 'dependency_cycle')) continue;
      outcome.isValid = false;
      outcome.errors.push({
        type: 'dependency_cycle',
        message: 'Dependency cycle detected',
        details: named,
        extra_info: { node_id: id, cycle_nodes: cycle },
      });
    }
  }
}
