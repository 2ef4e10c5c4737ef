/**
 * Node definitions as `/object_info` shows them, in ComfyUI's two forms.
 *
 * Source: comfyui-protocol, object_info; checked by the recorded object_info of the served nodes.
 */
import { asFloat, type Jsonable, type JsonableObject } from '../protocol/json.js';
import type { InputDefinition, NodeDefinition } from './node-definition.js';

/** `[type]` or `[type, options]`. */
export async function inputConfig(input: InputDefinition, api: NodeDefinition['api']): Promise<readonly Jsonable[]> {
  const choices = input.type === 'COMBO' ? await input.choices?.() : undefined;
  const options = input.type === 'FLOAT' ? withFloats(input.options) : input.options;
  if (api === 'v3') {
    const choiceOptions = choices === undefined ? {} : { multiselect: false, options: choices };
    return [input.type, { ...options, ...choiceOptions }];
  }
  const type: Jsonable = choices ?? input.type;
  return options === undefined ? [type] : [type, options];
}

/** Options of a FLOAT are floats, whole ones too. */
function withFloats(options: JsonableObject | undefined): JsonableObject | undefined {
  if (options === undefined) return undefined;
  const written = ([name, value]: [string, Jsonable]): [string, Jsonable] => [
    name,
    typeof value === 'number' ? asFloat(value) : value,
  ];
  return Object.fromEntries(Object.entries(options).map(written));
}

/** One entry of `/object_info`. */
export async function nodeInfo(node: NodeDefinition): Promise<Readonly<Record<string, Jsonable>>> {
  const groups: Record<string, Record<string, Jsonable>> = {};
  for (const input of node.inputs) {
    const group = (groups[input.optional === true ? 'optional' : 'required'] ??= {});
    group[input.name] = await inputConfig(input, node.api);
  }
  groups['required'] ??= {};
  const hidden = Object.entries(node.hidden ?? {});
  if (hidden.length > 0) {
    groups['hidden'] = Object.fromEntries(
      hidden.map(([name, kind]): [string, Jsonable] => [name, node.api === 'v3' ? [kind] : kind]),
    );
  }
  const types = node.outputs.map(({ type }) => type);
  const isV3 = node.api === 'v3';
  const tooltips = node.outputs.map(({ tooltip }) => tooltip ?? null);
  const shared = {
    input: groups,
    input_order: Object.fromEntries(Object.entries(groups).map(([group, inputs]) => [group, Object.keys(inputs)])),
    output: types,
    output_is_list: node.outputs.map(({ isList }) => isList === true),
    output_name: node.outputs.map(({ name, type }) => name ?? type),
  };
  const named = {
    name: node.classType,
    display_name: node.displayName ?? (isV3 ? null : node.classType),
    description: node.description ?? '',
  };
  const placed = { python_module: node.pythonModule, category: node.category, output_node: node.isOutputNode === true };
  if (isV3) {
    return {
      ...shared,
      output_tooltips: tooltips,
      ...named,
      ...placed,
      deprecated: node.isDeprecated === true,
      experimental: node.isExperimental === true,
      api_node: false,
    };
  }
  return {
    ...shared,
    ...named,
    ...placed,
    ...(tooltips.some((tooltip) => tooltip !== null) ? { output_tooltips: tooltips } : {}),
    ...(node.isDeprecated === true ? { deprecated: true } : {}),
    ...(node.isExperimental === true ? { experimental: true } : {}),
  };
}
