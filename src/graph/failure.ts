/** How a failed node is told to the client. */
import {
  isJsonObject,
  isWholeFloat,
  type Jsonable,
  type JsonObject,
  type JsonValue,
  type WholeFloat,
} from '../protocol/json.js';
import { isBlocker } from './node-call.js';
import type { NodeDefinition } from './node-definition.js';
import { pythonRepr, pythonStr } from './python-text.js';

/** Whether a node gave up because it was told to. */
export function isCancellation(failure: unknown): boolean {
  return failure instanceof Error && 'code' in failure && failure.code === 'CANCELLED';
}

/** Lines of text, as `execution_error` carries them. */
export function tracebackOf(failure: unknown): string[] {
  return failure instanceof Error
    ? (failure.stack ?? '')
        .split('\n')
        .slice(1)
        .map((line) => `${line}\n`)
    : [];
}

interface HiddenValues {
  readonly nodeId: string;
  readonly prompt: JsonObject;
  readonly extraPngInfo: JsonObject | undefined;
}

/** Inputs as an error event shows them: simple values as they are, the rest as text; hidden ones of the older form too. */
export function describeInputs(
  definition: NodeDefinition,
  values: Readonly<Record<string, readonly unknown[]>>,
  { nodeId, prompt, extraPngInfo }: HiddenValues,
): Readonly<Record<string, Jsonable>> {
  const hidden = definition.api === 'v1' ? Object.entries(definition.hidden ?? {}) : [];
  const hiddenValues = {
    PROMPT: prompt,
    EXTRA_PNGINFO: extraPngInfo ?? null,
    UNIQUE_ID: nodeId,
    DYNPROMPT: 'DynamicPrompt',
  } as const;
  const shown: [string, Jsonable][] = [
    ...Object.entries(values).map(([name, list]): [string, Jsonable] => [name, list.map(describeValue)]),
    ...hidden.map(([name, kind]): [string, Jsonable] => [name, [describeValue(hiddenValues[kind])]]),
  ];
  return Object.fromEntries(shown);
}

function describeValue(value: unknown): null | string | number | boolean | bigint | WholeFloat {
  if (
    value === null ||
    typeof value === 'string' ||
    typeof value === 'number' ||
    typeof value === 'boolean' ||
    typeof value === 'bigint' ||
    isWholeFloat(value)
  )
    return value;
  if (isBlocker(value)) return 'ExecutionBlocker';
  if (typeof value !== 'object') return typeof value;
  if (isJsonObject(value as JsonValue)) return pythonRepr(value as JsonValue);
  if (Array.isArray(value)) return `[${value.map((entry) => pythonStr(describeValue(entry))).join(', ')}]`;
  if ('dtype' in value && 'shape' in value && Array.isArray(value.shape))
    return `tensor(${String(value.dtype)} [${value.shape.join(', ')}])`;
  return value.constructor.name;
}
