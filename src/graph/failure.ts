/** How a failed node is told to the client. */
import type { Jsonable } from '../protocol/json.js';
import { isBlocker } from './node-call.js';

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

/** Inputs as an error event shows them: simple values as they are, the rest as text. */
export function describeInputs(
  values: Readonly<Record<string, readonly unknown[]>>,
): Readonly<Record<string, Jsonable>> {
  return Object.fromEntries(Object.entries(values).map(([name, list]) => [name, list.map(describeValue)]));
}

function describeValue(value: unknown): Jsonable {
  if (
    value === null ||
    typeof value === 'string' ||
    typeof value === 'number' ||
    typeof value === 'boolean' ||
    typeof value === 'bigint'
  )
    return value;
  if (isBlocker(value)) return 'ExecutionBlocker';
  if (typeof value !== 'object') return typeof value;
  if ('dtype' in value && 'shape' in value && Array.isArray(value.shape))
    return `tensor(${String(value.dtype)} [${value.shape.join(', ')}])`;
  return value.constructor.name;
}
