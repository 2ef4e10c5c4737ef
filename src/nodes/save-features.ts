/** VisionBridgeSaveFeatures: a CLIP_VISION_OUTPUT as a safetensors file in the output folder. */
import { serializeSafetensors } from '../formats/index.js';
import type { NodeDefinition } from '../graph/index.js';
import { featureTensors } from '../vision/index.js';
import { beginOutputSeries } from './output-files.js';
import type { NodeServices } from './services.js';
import { featuresInput, textInput } from './values.js';

export function createSaveFeatures({ directories }: NodeServices): NodeDefinition {
  return {
    classType: 'VisionBridgeSaveFeatures',
    api: 'v3',
    displayName: 'Save Features (Vision Bridge)',
    description: 'Writes the features of CLIP Vision Encode into a .safetensors file in the output folder.',
    category: 'vision bridge',
    pythonModule: 'custom_nodes.vision-bridge',
    inputs: [
      { name: 'features', type: 'CLIP_VISION_OUTPUT' },
      { name: 'filename_prefix', type: 'STRING', options: { default: 'features' } },
    ],
    outputs: [],
    isOutputNode: true,
    async execute(inputs) {
      const bytes = serializeSafetensors(featureTensors(featuresInput(inputs, 'features')));
      const series = await beginOutputSeries(directories.output, textInput(inputs, 'filename_prefix'), {
        width: 0,
        height: 0,
      });
      return { ui: { features: [{ ...(await series.write(bytes, 'safetensors')), type: 'output' }] } };
    },
  };
}
