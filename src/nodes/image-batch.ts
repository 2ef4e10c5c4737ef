/** ImageBatch: two batches as one, the second in the size of the first. Source: ComfyUI, nodes.py. */
import type { NodeDefinition } from '../graph/index.js';
import { checkPixels, upscale } from '../image/index.js';
import { imageSize, joinBatches } from './image-shapes.js';
import { imageInput } from './values.js';

export function createImageBatch(): NodeDefinition {
  return {
    classType: 'ImageBatch',
    api: 'v1',
    displayName: 'Batch Images',
    category: 'image',
    pythonModule: 'nodes',
    inputs: [
      { name: 'image1', type: 'IMAGE' },
      { name: 'image2', type: 'IMAGE' },
    ],
    outputs: [{ type: 'IMAGE' }],
    async execute(inputs, { signal }) {
      const first = imageInput(inputs, 'image1');
      const second = imageInput(inputs, 'image2');
      const a = imageSize(first);
      const b = imageSize(second);
      checkPixels(a.batch + b.batch, a.width, a.height);
      const fits = a.width === b.width && a.height === b.height && a.channels === b.channels;
      const { width, height } = a;
      const fitted = fits
        ? second
        : await upscale(second, { width, height, method: 'bilinear', crop: 'center', signal });
      return { outputs: [joinBatches(first, fitted)] };
    },
  };
}
