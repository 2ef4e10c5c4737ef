/** VisionBridgeModelStats: counts, bytes and parameters of the user's model files, as text. */
import type { NodeDefinition } from '../graph/index.js';
import { statsJson } from '../library/index.js';
import { writeJson } from '../protocol/json.js';
import { groupingSchema, STAT_GROUPINGS } from '../protocol/registry.js';
import type { NodeServices } from './services.js';
import { textInput } from './values.js';

export function createModelStats({ registry }: NodeServices): NodeDefinition {
  return {
    classType: 'VisionBridgeModelStats',
    api: 'v1',
    displayName: 'Model Stats',
    description: 'Counts the model files, their bytes and parameters, grouped. JSON.',
    category: 'vision bridge/models',
    pythonModule: 'custom_nodes.vision-bridge',
    inputs: [{ name: 'by', type: 'COMBO', choices: () => STAT_GROUPINGS }],
    outputs: [{ type: 'STRING', name: 'json' }],
    isOutputNode: true,
    // Files change without the prompt changing.
    changeToken: () => Number.NaN,
    async execute(inputs) {
      await registry.refresh();
      const text = writeJson(statsJson(registry.stats(groupingSchema.parse(textInput(inputs, 'by')))));
      return { outputs: [text], ui: { text: [text] } };
    },
  };
}
