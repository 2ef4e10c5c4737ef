/**
 * What can be wrong with one input of a node, as ComfyUI's own error objects.
 *
 * Each check looks at one value and the definition of its input; the walk along the links, and what becomes of the
 * errors, is validation.ts.
 *
 * Source: ComfyUI, execution.py, `validate_inputs`.
 */
import { isJsonObject, withoutFloatMark, type JsonObject, type Jsonable, type JsonValue } from '../protocol/json.js';
import type { ValidationError } from '../protocol/prompt.js';
import { convertLiteral } from './convert.js';
import type { InputDefinition, NodeDefinition } from './node-definition.js';
import { PythonError } from './python-error.js';
import { pythonFloat, pythonRepr, pythonStr, pythonTypeName } from './python-text.js';
import { socketTypeOf, typesMatch, type SocketType } from './type-matching.js';

/** The version of ComfyUI whose rules and error types hold. */
export type GraphDialect = '0.3.64' | 'latest';

/** A check yields the promises that it waits for. */
type Check<T> = Generator<Promise<unknown>, T, unknown>;

/** Longer lists of options are not written out. */
const MAX_LISTED_OPTIONS = 20;

export function missingInput(input: InputDefinition): ValidationError {
  return {
    type: 'required_input_missing',
    message: 'Required input is missing',
    details: input.name,
    extra_info: { input_name: input.name },
  };
}

/**
 * @param definitionOf Throws for a node that is not there, as ComfyUI does.
 * @returns the id of the node that the link comes from, or what is wrong with it.
 * @throws {PythonError} where ComfyUI's own code raises
 */
export function* checkLink(
  definition: NodeDefinition,
  input: InputDefinition,
  config: readonly Jsonable[],
  link: readonly JsonValue[],
  definitionOf: (id: string) => NodeDefinition,
): Check<{ readonly source?: string; readonly error?: ValidationError }> {
  const info = { input_name: input.name, input_config: shownConfig(config) };
  if (link.length !== 2) {
    const error = {
      type: 'bad_linked_input',
      message: 'Bad linked input, must be a length-2 list of [node_id, slot_index]',
      details: input.name,
      extra_info: { ...info, received_value: link },
    };
    return { error };
  }
  const [source, slot] = link;
  if (Array.isArray(source) || isJsonObject(source))
    throw new PythonError('TypeError', `unhashable type: '${pythonTypeName(source)}'`);
  if (typeof source !== 'string') throw new PythonError('KeyError', pythonRepr(source ?? null));
  const { outputs, api } = definitionOf(source);
  const received = outputs[slotIndex(slot, outputs.length, api)]?.type ?? '*';
  const wanted = (yield socketTypeOf(input, definition.api)) as SocketType;
  if (definition.validator?.takesInputTypes === true || typesMatch(received, wanted)) return { source };
  const shown = typeof wanted === 'string' ? wanted : pythonRepr([...wanted]);
  const error = {
    type: 'return_type_mismatch',
    message: 'Return type mismatch between linked nodes',
    details: `${input.name}, received_type(${received}) mismatch input_type(${shown})`,
    extra_info: { ...info, received_type: received, linked_node: link },
  };
  return { error };
}

/** What a node is told of the one that it takes an input from, when the validation of that one raised an error. */
export function innerFailure(
  input: InputDefinition,
  config: readonly Jsonable[],
  link: readonly JsonValue[],
  thrown: { readonly message: string; readonly type: string },
): ValidationError {
  return {
    type: 'exception_during_inner_validation',
    message: 'Exception when validating inner node',
    details: thrown.message,
    extra_info: {
      input_name: input.name,
      input_config: shownConfig(config),
      exception_message: thrown.message,
      exception_type: thrown.type,
      traceback: [],
      linked_node: link,
    },
  };
}

/** @returns the value as the input takes it, undefined where it is none; and what is wrong with it. */
export function* checkLiteral(
  definition: NodeDefinition,
  input: InputDefinition,
  config: readonly Jsonable[],
  literal: JsonValue,
  dialect: GraphDialect,
): Check<{ readonly value?: JsonValue; readonly error?: ValidationError }> {
  const info = { input_name: input.name, input_config: shownConfig(config) };
  const converted = convertLiteral(input.type, literal);
  if ('reason' in converted) {
    const error = {
      type: 'invalid_input_type',
      message: `Failed to convert an input value to a ${input.type} value`,
      details: `${input.name}, ${pythonStr(literal)}, ${converted.reason}`,
      extra_info: { ...info, received_value: literal, exception_message: converted.reason },
    };
    return { error };
  }
  const { value } = converted;
  if (definition.validator?.names.includes(input.name) === true) return { value };
  const bound = boundProblem(input, value);
  if (bound !== undefined)
    return { value, error: { ...bound, details: input.name, extra_info: { ...info, received_value: value } } };
  if (input.type !== 'COMBO' || input.choices === undefined) return { value };
  if (definition.api === 'v3' && dialect === '0.3.64') return { value };
  const choices = (yield Promise.resolve(input.choices())) as readonly string[];
  if (typeof value === 'string' && choices.includes(value)) return { value };
  const isLong = choices.length > MAX_LISTED_OPTIONS;
  const listed = isLong ? `(list of length ${choices.length})` : pythonRepr([...choices]);
  const error = {
    type: 'value_not_in_list',
    message: 'Value not in list',
    details: `${input.name}: '${pythonStr(value)}' not in ${listed}`,
    extra_info: { input_name: input.name, input_config: isLong ? null : shownConfig(config), received_value: value },
  };
  return { value, error };
}

/** `inputs` of a node; a text or a list holds no names, and anything else cannot be searched for one. */
export function inputsOf(value: JsonValue | undefined): JsonObject {
  if (value === undefined) throw new PythonError('KeyError', "'inputs'");
  if (isJsonObject(value)) return value;
  if (typeof value === 'string' || Array.isArray(value)) return new Map();
  throw new PythonError('TypeError', `argument of type '${pythonTypeName(value)}' is not iterable`);
}

/** Negative slots count from the end, as Python's do. Older nodes keep their outputs in a tuple, newer ones in a list. */
function slotIndex(slot: JsonValue | undefined, count: number, api: NodeDefinition['api']): number {
  const sequence = api === 'v3' ? 'list' : 'tuple';
  const given = typeof slot === 'boolean' || typeof slot === 'bigint' ? Number(slot) : slot;
  if (typeof given !== 'number' || !Number.isInteger(given)) {
    const type = pythonTypeName(slot ?? null);
    throw new PythonError('TypeError', `${sequence} indices must be integers or slices, not ${type}`);
  }
  const index = given < 0 ? given + count : given;
  if (index < 0 || index >= count) throw new PythonError('IndexError', `${sequence} index out of range`);
  return index;
}

function shownConfig(config: readonly Jsonable[]): readonly Jsonable[] {
  return config.length > 1 ? config : [...config, {}];
}

/** A number outside the bounds of its input, in the words of ComfyUI. */
export function boundProblem(input: InputDefinition, given: JsonValue): { type: string; message: string } | undefined {
  const value = withoutFloatMark(given);
  if (typeof value !== 'number' && typeof value !== 'bigint') return undefined;
  const { min, max } = input.options ?? {};
  const text = (number: number | bigint): string =>
    input.type === 'FLOAT' && typeof number === 'number' ? pythonFloat(number) : String(number);
  if ((typeof min === 'number' || typeof min === 'bigint') && value < min) {
    return { type: 'value_smaller_than_min', message: `Value ${text(value)} smaller than min of ${text(min)}` };
  }
  if ((typeof max === 'number' || typeof max === 'bigint') && value > max) {
    return { type: 'value_bigger_than_max', message: `Value ${text(value)} bigger than max of ${text(max)}` };
  }
  return undefined;
}
