/** VisionBridgeFindModels: model files by what they are, as a list of names. */
import type { NodeDefinition } from '../graph/index.js';
import type { ModelQuery } from '../registry/index.js';
import type { NodeServices } from './services.js';
import { textInput } from './values.js';

const FILTERS = ['folder', 'kind', 'base', 'text'] as const;
const MAX_NAMES = 10_000;

export function createFindModels({ registry }: NodeServices): NodeDefinition {
  return {
    classType: 'VisionBridgeFindModels',
    api: 'v1',
    displayName: 'Find Models',
    description: 'Names of the model files that fit all filters. An empty filter fits every file.',
    category: 'vision bridge/models',
    pythonModule: 'custom_nodes.vision-bridge',
    inputs: [
      ...FILTERS.map((name) => ({ name, type: 'STRING', options: { default: '' } })),
      { name: 'limit', type: 'INT', options: { default: 100, min: 1, max: MAX_NAMES } },
    ],
    outputs: [
      { type: 'STRING', name: 'names' },
      { type: 'INT', name: 'total' },
    ],
    isOutputNode: true,
    changeToken: () => Number.NaN,
    async execute(inputs) {
      await registry.refresh();
      const filters = FILTERS.map((name) => [name, textInput(inputs, name).trim()] as const).filter(
        ([, text]) => text !== '',
      );
      const limit = typeof inputs['limit'] === 'number' ? inputs['limit'] : MAX_NAMES;
      const query: ModelQuery = { ...Object.fromEntries(filters), sort: 'name', limit };
      const { total, models } = registry.query(query);
      const text = models.map(({ folder, name }) => `${folder}/${name}`).join('\n');
      return { outputs: [text, total], ui: { text: [text] } };
    },
  };
}
