/**
 * One node, called on its own: what the ComfyUI pack does for every node that it shows.
 *
 * Inputs are checked as a prompt's would be; links and caching are the caller's. Progress, previews and texts are told
 * as the events of a prompt whose id is the call's, to the client that is named, and to nobody where none is.
 */
import { throwIfAborted } from '../common/abort.js';
import { BridgeError, InvalidRequestError } from '../common/errors.js';
import { withoutFloatMark, type JsonValue } from '../protocol/json.js';
import { convertLiteral } from './convert.js';
import type { GraphListener } from './events.js';
import type {
  InputDefinition,
  NodeContext,
  NodeDefinition,
  NodeInputs,
  NodeResult,
  PreviewImage,
} from './node-definition.js';
import { PythonError } from './python-error.js';
import { ProgressState } from './progress.js';
import { RunningPrompt } from './running-prompt.js';
import { boundProblem } from './input-checks.js';
import type { NodeTable } from './validation.js';

export interface NodeCallOptions {
  /** Shown as `prompt_id` in the events of the call. */
  readonly callId: string;
  readonly clientId?: string | undefined;
  readonly signal: AbortSignal;
}

/** Calls that may be under way at once; each holds its tensors in memory. */
const MAX_CALLS = 32;
/** Values that arrive as JSON and are converted as a prompt's literals are. */
const LITERAL_TYPES = new Set(['INT', 'FLOAT', 'STRING', 'BOOLEAN', 'COMBO']);

export function isLiteralType(type: string): boolean {
  return LITERAL_TYPES.has(type);
}

export class NodeCaller {
  readonly #table: NodeTable;
  readonly #listeners = new Set<GraphListener>();
  #running = 0;

  constructor(table: NodeTable) {
    this.#table = table;
  }

  subscribe(listener: GraphListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** @throws {BridgeError} `NOT_FOUND` for a class that is not served. */
  definition(classType: string): NodeDefinition {
    const definition = this.#table.get(classType);
    if (definition !== undefined) return definition;
    throw new BridgeError('NOT_FOUND', `This Vision Bridge has no node ${JSON.stringify(classType)}.`, {
      details: { class_type: classType, available: [...this.#table.keys()] },
    });
  }

  /** Calls that are under way. */
  get running(): number {
    return this.#running;
  }

  /**
   * Calls a node once.
   *
   * @param inputs Literals as JSON, all other values as the node takes them.
   * @throws {InvalidRequestError} naming the input that is missing, unknown or out of bounds; what the node throws.
   */
  async call(classType: string, inputs: NodeInputs, options: NodeCallOptions): Promise<NodeResult> {
    const definition = this.definition(classType);
    if (this.#running >= MAX_CALLS)
      throw new BridgeError('BUSY', `${MAX_CALLS} node calls are under way already; send this one again later.`);
    this.#running += 1;
    try {
      const checked = await checkInputs(definition, inputs);
      throwIfAborted(options.signal);
      const result = await definition.execute(checked, this.#context(definition, options));
      if (result.expand !== undefined)
        throw new InvalidRequestError(`${classType} makes further nodes; it runs in a prompt only.`);
      return result;
    } catch (error) {
      if (error instanceof PythonError)
        throw new InvalidRequestError(error.message, { cause: error, details: { exception_type: error.pythonType } });
      throw error;
    } finally {
      this.#running -= 1;
    }
  }

  #context({ classType }: NodeDefinition, { callId, clientId, signal }: NodeCallOptions): NodeContext {
    // A prompt of this one node, so that clients see what they see of every prompt.
    const prompt = new Map([[callId, new Map<string, JsonValue>([['class_type', classType]])]]);
    const progress = new ProgressState(new RunningPrompt(this.#table, prompt), callId);
    const place = {
      nodeId: callId,
      promptId: callId,
      displayNodeId: callId,
      parentNodeId: null,
      realNodeId: callId,
    };
    const emit: GraphListener = (event) => {
      if (clientId === undefined) return;
      for (const listener of this.#listeners) listener(event);
    };
    const preview = (moment: 'before-progress' | 'after-progress', image: PreviewImage | undefined): void => {
      if (image !== undefined) emit({ kind: 'preview', to: clientId, moment, image, place });
    };
    return {
      promptId: callId,
      nodeId: callId,
      prompt,
      extraPngInfo: undefined,
      expansionPrefix: `${callId}.0.0.`,
      state: new Map(),
      signal,
      throwIfInterrupted: () => {
        throwIfAborted(signal);
      },
      reportProgress: (value, max, image) => {
        throwIfAborted(signal);
        progress.update(callId, value, max);
        emit({ kind: 'json', to: clientId, type: 'progress_state', data: progress.event() });
        preview('before-progress', image);
        emit({ kind: 'json', to: clientId, type: 'progress', data: { value, max, prompt_id: callId, node: callId } });
        preview('after-progress', image);
      },
      sendText: (text) => {
        emit({ kind: 'text', to: clientId, nodeId: callId, text });
      },
    };
  }
}

async function checkInputs(definition: NodeDefinition, inputs: NodeInputs): Promise<NodeInputs> {
  const known = new Set(definition.inputs.map(({ name }) => name));
  const unknown = Object.keys(inputs).filter((name) => !known.has(name));
  if (unknown.length > 0) {
    throw new InvalidRequestError(
      `${definition.classType} has no input ${unknown.join(', ')}; it has ${[...known].join(', ') || 'none'}.`,
    );
  }
  const checked: Record<string, unknown> = {};
  for (const input of definition.inputs) {
    const value = inputs[input.name];
    if (value !== undefined) checked[input.name] = await checkInput(definition, input, value);
    else if (input.optional !== true)
      throw new InvalidRequestError(`${definition.classType} needs the input ${input.name}.`);
  }
  const verdict = await definition.validator?.check(checked);
  if (verdict !== undefined && verdict !== true) {
    const names = definition.validator?.names.join(', ') ?? '';
    throw new InvalidRequestError(typeof verdict === 'string' ? verdict : `The value of ${names} is not accepted.`);
  }
  return checked;
}

async function checkInput(
  { classType, validator }: NodeDefinition,
  input: InputDefinition,
  value: unknown,
): Promise<unknown> {
  if (!isLiteralType(input.type)) return value;
  const label = `${classType}: ${input.name}`;
  const converted = convertLiteral(input.type, value as JsonValue);
  if ('reason' in converted) throw new InvalidRequestError(`${label}: ${converted.reason}.`);
  if (validator?.names.includes(input.name) === true) return withoutFloatMark(converted.value);
  const bound = boundProblem(input, converted.value);
  if (bound !== undefined) throw new InvalidRequestError(`${label}: ${bound.message}.`);
  if (input.type === 'COMBO' && input.choices !== undefined) {
    const choices = await input.choices();
    if (typeof converted.value !== 'string' || !choices.includes(converted.value)) {
      const some = choices.length > MAX_NAMED_CHOICES ? `one of ${choices.length} names` : choices.join(', ') || 'none';
      throw new InvalidRequestError(`${label}: ${JSON.stringify(value)} is no choice; it can be ${some}.`);
    }
  }
  return withoutFloatMark(converted.value);
}

/** Longer lists of choices are not written into messages. */
const MAX_NAMED_CHOICES = 20;
