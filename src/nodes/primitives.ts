/** PrimitiveInt, Float, String, StringMultiline, Boolean: a value of one's own. Source: ComfyUI, comfy_extras/nodes_primitive.py. */
import type { NodeDefinition } from '../graph/index.js';
import type { JsonableObject } from '../protocol/json.js';

const MAX_INT = 2n ** 63n - 1n;
const RANGE = { min: -MAX_INT, max: MAX_INT };

function primitive(classType: string, displayName: string, type: string, options: JsonableObject = {}): NodeDefinition {
  return {
    classType,
    api: 'v3',
    displayName,
    category: 'utils/primitive',
    pythonModule: 'comfy_extras.nodes_primitive',
    inputs: [{ name: 'value', type, options }],
    outputs: [{ type }],
    execute: ({ value }) => ({ outputs: [value] }),
  };
}

export function createPrimitives(): NodeDefinition[] {
  return [
    primitive('PrimitiveString', 'String', 'STRING', { multiline: false }),
    primitive('PrimitiveStringMultiline', 'String (Multiline)', 'STRING', { multiline: true }),
    primitive('PrimitiveInt', 'Int', 'INT', { ...RANGE, control_after_generate: true }),
    primitive('PrimitiveFloat', 'Float', 'FLOAT', RANGE),
    primitive('PrimitiveBoolean', 'Boolean', 'BOOLEAN'),
  ];
}
