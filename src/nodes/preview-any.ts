/** PreviewAny: anything as text. Source: ComfyUI, comfy_extras/nodes_preview_any.py. */
import { pythonRepr, type NodeDefinition } from '../graph/index.js';
import { isWholeFloat, writeAsciiJson, type Jsonable, type WholeFloat } from '../protocol/json.js';

export function createPreviewAny(): NodeDefinition {
  return {
    classType: 'PreviewAny',
    api: 'v1',
    displayName: 'Preview Any',
    category: 'utils',
    pythonModule: 'comfy_extras.nodes_preview_any',
    inputs: [{ name: 'source', type: '*', options: {} }],
    outputs: [],
    isOutputNode: true,
    execute: ({ source }) => ({ ui: { text: [textOf(source)] } }),
  };
}

/** Texts as they are, simple values as Python writes them, lists and objects of such as JSON, the rest described. */
function textOf(value: unknown): string {
  if (value === undefined || value === null) return 'None';
  if (typeof value === 'string') return value;
  if (isSimple(value)) return pythonRepr(value);
  return isJson(value) ? writeAsciiJson(value) : describe(value);
}

function isSimple(value: unknown): value is number | boolean | bigint | WholeFloat {
  return ['number', 'boolean', 'bigint'].includes(typeof value) || isWholeFloat(value);
}

function isJson(value: unknown): value is Jsonable {
  if (value instanceof Map) return [...value.values()].every(isJson);
  if (Array.isArray(value)) return value.every(isJson);
  return value === null || typeof value === 'string' || isSimple(value);
}

/** Tensors by dtype and shape, objects by their entries: a text that says what is there, not megabytes of numbers. */
function describe(value: unknown): string {
  if (typeof value !== 'object' || value === null) return textOf(value);
  if ('dtype' in value && 'shape' in value && Array.isArray(value.shape))
    return `${String(value.dtype)} [${value.shape.join(', ')}]`;
  if (Array.isArray(value)) return `[${value.map(describe).join(', ')}]`;
  return Object.entries(value)
    .map(([key, entry]) => `${key}: ${describe(entry)}`)
    .join('\n');
}
