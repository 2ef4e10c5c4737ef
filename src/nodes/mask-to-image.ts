/** MaskToImage: a mask as a grey picture. Source: ComfyUI, comfy_extras/nodes_mask.py. */
import type { NodeDefinition } from '../graph/index.js';
import { checkPixels } from '../image/index.js';
import { tensorOf } from './image-shapes.js';
import { maskInput } from './values.js';

const CHANNELS = 3;

export function createMaskToImage(): NodeDefinition {
  return {
    classType: 'MaskToImage',
    api: 'v1',
    displayName: 'Convert Mask to Image',
    category: 'mask',
    pythonModule: 'comfy_extras.nodes_mask',
    inputs: [{ name: 'mask', type: 'MASK' }],
    outputs: [{ type: 'IMAGE' }],
    async execute(inputs, { signal }) {
      const { shape, data } = maskInput(inputs, 'mask');
      const [height = 0, width = 0] = shape.slice(-2);
      const batch = data.length / (height * width);
      checkPixels(batch, width, height);
      const grey = await tensorOf([batch, height, width, CHANNELS], (i) => data[Math.floor(i / CHANNELS)] ?? 0, signal);
      return { outputs: [grey] };
    },
  };
}
