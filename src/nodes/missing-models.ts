/** VisionBridgeMissingModels: which models of a workflow are not there, and the workflow with the names that fit here. */
import type { NodeDefinition } from '../graph/index.js';
import { resolveWorkflow } from '../library/index.js';
import { parseJson, writeJson } from '../protocol/json.js';
import type { NodeServices } from './services.js';
import { textInput } from './values.js';

export function createMissingModels({ registry }: NodeServices): NodeDefinition {
  return {
    classType: 'VisionBridgeMissingModels',
    api: 'v1',
    displayName: 'Missing Models',
    description:
      'Looks up every model of a workflow (its JSON) among your files: found, under another name, or missing.',
    category: 'vision bridge/models',
    pythonModule: 'custom_nodes.vision-bridge',
    inputs: [{ name: 'workflow', type: 'STRING', options: { multiline: true, default: '' } }],
    outputs: [
      { type: 'STRING', name: 'report' },
      { type: 'INT', name: 'missing' },
      { type: 'STRING', name: 'repaired' },
    ],
    isOutputNode: true,
    changeToken: () => Number.NaN,
    async execute(inputs) {
      await registry.refresh();
      const { references, missing, repaired } = resolveWorkflow(
        parseJson(textInput(inputs, 'workflow')),
        registry.entries(),
      );
      const report = references
        .map(({ status, name, replacement, file }) => {
          const where = replacement ?? (status === 'misplaced' ? file?.path : undefined);
          return `${status} ${name}${where === undefined ? '' : ` -> ${where}`}`;
        })
        .join('\n');
      return { outputs: [report, missing, writeJson(repaired)], ui: { text: [report] } };
    },
  };
}
