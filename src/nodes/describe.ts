/**
 * The node table as a document that other hosts build their nodes from: `vision-bridge nodes --json`.
 *
 * Only nodes of our own are in it; what ComfyUI has, ComfyUI keeps.
 */
import type { InputDefinition, NodeDefinition, NodeTable } from '../graph/index.js';
import type { JsonableObject } from '../protocol/json.js';

/** Raised when node calls or this document change in a way that an older pack or server does not understand. */
export const NODE_PROTOCOL = 1;

const OWN_PREFIX = 'VisionBridge';

export async function describeNodes(table: NodeTable): Promise<JsonableObject> {
  const own = [...table.values()].filter(({ classType }) => classType.startsWith(OWN_PREFIX));
  const nodes = await Promise.all(own.map(describeNode));
  return { node_protocol: NODE_PROTOCOL, nodes };
}

async function describeNode(node: NodeDefinition): Promise<JsonableObject> {
  return {
    class_type: node.classType,
    display_name: node.displayName ?? node.classType,
    description: node.description ?? '',
    category: node.category,
    is_output_node: node.isOutputNode === true,
    not_idempotent: node.notIdempotent === true,
    is_experimental: node.isExperimental === true,
    is_deprecated: node.isDeprecated === true,
    inputs: await Promise.all(node.inputs.map(describeInput)),
    outputs: node.outputs.map(({ type, name, tooltip }) => ({ type, name: name ?? type, tooltip: tooltip ?? null })),
  };
}

/** Choices that are files are the host's to list: names mean the same there. */
async function describeInput(input: InputDefinition): Promise<JsonableObject> {
  const { name, type, optional = false, options = {}, choices, choicesFrom } = input;
  const choice =
    choicesFrom === undefined ? choices && { choices: await choices() } : { choices_from: { ...choicesFrom } };
  return { name, type, optional, options, ...choice };
}
