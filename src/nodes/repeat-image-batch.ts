/** RepeatImageBatch: a batch several times over. Source: ComfyUI, comfy_extras/nodes_images.py. */
import type { NodeDefinition } from '../graph/index.js';
import { checkPixels } from '../image/index.js';
import { imageSize, tensorOf } from './image-shapes.js';
import { imageInput, numberInput } from './values.js';

export function createRepeatImageBatch(): NodeDefinition {
  return {
    classType: 'RepeatImageBatch',
    api: 'v1',
    category: 'image/batch',
    pythonModule: 'comfy_extras.nodes_images',
    inputs: [
      { name: 'image', type: 'IMAGE' },
      { name: 'amount', type: 'INT', options: { default: 1, min: 1, max: 4096 } },
    ],
    outputs: [{ type: 'IMAGE' }],
    async execute(inputs, { signal }) {
      const image = imageInput(inputs, 'image');
      const { batch, height, width, channels } = imageSize(image);
      const total = batch * numberInput(inputs, 'amount');
      checkPixels(total, width, height);
      const { data } = image;
      return {
        outputs: [await tensorOf([total, height, width, channels], (i) => data[i % data.length] ?? 0, signal)],
      };
    },
  };
}
