/** VisionBridgeCombineEmbeds: several embeds as one, in the modes of IPAdapter_plus. */
import { combineEmbeds, COMBINE_MODES } from '../adapter/index.js';
import type { NodeDefinition } from '../graph/index.js';
import { CATEGORY, EMBEDS, embedsInput, MODULE } from './ipadapter-values.js';
import { choiceInput } from './values.js';

const INPUTS = ['embeds1', 'embeds2', 'embeds3', 'embeds4', 'embeds5'];

export function createCombineEmbeds(): NodeDefinition {
  return {
    classType: 'VisionBridgeCombineEmbeds',
    api: 'v1',
    displayName: 'Combine Embeds (Vision Bridge)',
    description: 'Several embeds as one: side by side, added, averaged.',
    category: CATEGORY,
    pythonModule: MODULE,
    inputs: [
      ...INPUTS.slice(0, 1).map((name) => ({ name, type: EMBEDS })),
      { name: 'method', type: 'COMBO', choices: () => COMBINE_MODES },
      ...INPUTS.slice(1).map((name) => ({ name, type: EMBEDS, optional: true })),
    ],
    outputs: [{ type: EMBEDS, name: 'embeds' }],
    execute(inputs) {
      const list = INPUTS.filter((name) => inputs[name] !== undefined).map((name) => embedsInput(inputs, name));
      return { outputs: [combineEmbeds(list, choiceInput(inputs, 'method', COMBINE_MODES))] };
    },
  };
}
