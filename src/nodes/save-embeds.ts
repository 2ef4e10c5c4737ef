/** VisionBridgeSaveEmbeds: embeds with their provenance as a safetensors file in the output folder. */
import { serializeEmbeds } from '../adapter/index.js';
import type { NodeDefinition } from '../graph/index.js';
import { CATEGORY, EMBEDS, embedsInput, MODULE } from './ipadapter-values.js';
import { beginOutputSeries } from './output-files.js';
import type { NodeServices } from './services.js';
import { textInput } from './values.js';

export function createSaveEmbeds({ directories }: NodeServices): NodeDefinition {
  return {
    classType: 'VisionBridgeSaveEmbeds',
    api: 'v1',
    displayName: 'Save Embeds (Vision Bridge)',
    description: 'Writes IP-Adapter embeds into a .safetensors file in the output folder.',
    category: CATEGORY,
    pythonModule: MODULE,
    inputs: [
      { name: 'embeds', type: EMBEDS },
      { name: 'filename_prefix', type: 'STRING', options: { default: 'IP_embeds' } },
    ],
    outputs: [],
    isOutputNode: true,
    async execute(inputs) {
      const bytes = serializeEmbeds(embedsInput(inputs, 'embeds'));
      const noSize = { width: 0, height: 0 };
      const series = await beginOutputSeries(directories.output, textInput(inputs, 'filename_prefix'), noSize);
      return { ui: { embeds: [{ ...(await series.write(bytes, 'safetensors')), type: 'output' }] } };
    },
  };
}
