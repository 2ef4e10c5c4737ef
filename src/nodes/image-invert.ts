/** ImageInvert: 1 - picture. Source: ComfyUI, nodes.py. */
import type { NodeDefinition } from '../graph/index.js';
import { tensorOf } from './image-shapes.js';
import { imageInput } from './values.js';

export function createImageInvert(): NodeDefinition {
  return {
    classType: 'ImageInvert',
    api: 'v1',
    displayName: 'Invert Image',
    category: 'image',
    pythonModule: 'nodes',
    inputs: [{ name: 'image', type: 'IMAGE' }],
    outputs: [{ type: 'IMAGE' }],
    async execute(inputs, { signal }) {
      const { shape, data } = imageInput(inputs, 'image');
      return { outputs: [await tensorOf(shape, (i) => 1 - (data[i] ?? 0), signal)] };
    },
  };
}
