/** Whether an output may be linked to an input. */
import type { InputDefinition } from './node-definition.js';

/** What stands for a COMBO of the older form: its very choices; two lists match when they are equal. */
export type SocketType = string | readonly string[];

/**
 * Equal types match, `*` matches everything on either side, comma-separated unions match when they intersect.
 *
 * Source: ComfyUI, comfy_execution/validation.py (`validate_node_input`).
 */
export function typesMatch(received: SocketType, wanted: SocketType): boolean {
  if (received === '*' || wanted === '*') return true;
  if (typeof received !== 'string' || typeof wanted !== 'string') {
    return typeof received !== 'string' && typeof wanted !== 'string' && received.join('\0') === wanted.join('\0');
  }
  if (received === wanted) return true;
  const split = (type: string): string[] => type.split(',').map((part) => part.trim());
  const accepted = new Set(split(wanted));
  return split(received).some((part) => accepted.has(part));
}

/** The type of an input as object_info shows it for a node of the older form. */
export async function socketTypeOf(input: InputDefinition, api: 'v1' | 'v3'): Promise<SocketType> {
  return input.type === 'COMBO' && api === 'v1' && input.choices !== undefined ? input.choices() : input.type;
}
