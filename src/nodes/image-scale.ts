/** ImageScale: pictures in a size of one's own. Source: ComfyUI, nodes.py. */
import type { NodeDefinition } from '../graph/index.js';
import { roundHalfEven, upscale, UPSCALE_METHODS } from '../image/index.js';
import { imageSize, sideInput } from './image-shapes.js';
import { choiceInput, imageInput, numberInput } from './values.js';

const CROPS = ['disabled', 'center'] as const;

export function createImageScale(): NodeDefinition {
  return {
    classType: 'ImageScale',
    api: 'v1',
    displayName: 'Upscale Image',
    category: 'image/upscaling',
    pythonModule: 'nodes',
    inputs: [
      { name: 'image', type: 'IMAGE' },
      { name: 'upscale_method', type: 'COMBO', choices: () => UPSCALE_METHODS },
      sideInput('width', 0),
      sideInput('height', 0),
      { name: 'crop', type: 'COMBO', choices: () => CROPS },
    ],
    outputs: [{ type: 'IMAGE' }],
    async execute(inputs, { signal }) {
      const image = imageInput(inputs, 'image');
      const from = imageSize(image);
      let width = numberInput(inputs, 'width');
      let height = numberInput(inputs, 'height');
      if (width === 0 && height === 0) return { outputs: [image] };
      // A side of 0 follows the other one.
      if (width === 0) width = Math.max(1, roundHalfEven((from.width * height) / from.height));
      else if (height === 0) height = Math.max(1, roundHalfEven((from.height * width) / from.width));
      const method = choiceInput(inputs, 'upscale_method', UPSCALE_METHODS);
      const crop = choiceInput(inputs, 'crop', CROPS);
      return { outputs: [await upscale(image, { width, height, method, crop, signal })] };
    },
  };
}
