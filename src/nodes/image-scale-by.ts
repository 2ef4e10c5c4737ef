/** ImageScaleBy: pictures by a factor. Source: ComfyUI, nodes.py. */
import type { NodeDefinition } from '../graph/index.js';
import { roundHalfEven, upscale, UPSCALE_METHODS } from '../image/index.js';
import { imageSize } from './image-shapes.js';
import { choiceInput, imageInput, numberInput } from './values.js';

export function createImageScaleBy(): NodeDefinition {
  return {
    classType: 'ImageScaleBy',
    api: 'v1',
    displayName: 'Upscale Image By',
    category: 'image/upscaling',
    pythonModule: 'nodes',
    inputs: [
      { name: 'image', type: 'IMAGE' },
      { name: 'upscale_method', type: 'COMBO', choices: () => UPSCALE_METHODS },
      { name: 'scale_by', type: 'FLOAT', options: { default: 1, min: 0.01, max: 8, step: 0.01 } },
    ],
    outputs: [{ type: 'IMAGE' }],
    async execute(inputs, { signal }) {
      const image = imageInput(inputs, 'image');
      const factor = numberInput(inputs, 'scale_by');
      const from = imageSize(image);
      const width = roundHalfEven(from.width * factor);
      const height = roundHalfEven(from.height * factor);
      const method = choiceInput(inputs, 'upscale_method', UPSCALE_METHODS);
      return { outputs: [await upscale(image, { width, height, method, crop: 'disabled', signal })] };
    },
  };
}
