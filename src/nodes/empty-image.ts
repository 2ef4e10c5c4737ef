/** EmptyImage: pictures of one colour. Source: ComfyUI, nodes.py. */
import type { NodeDefinition } from '../graph/index.js';
import { checkPixels } from '../image/index.js';
import { sideInput, tensorOf } from './image-shapes.js';
import { numberInput } from './values.js';

export function createEmptyImage(): NodeDefinition {
  return {
    classType: 'EmptyImage',
    api: 'v1',
    category: 'image',
    pythonModule: 'nodes',
    inputs: [
      sideInput('width', 1),
      sideInput('height', 1),
      { name: 'batch_size', type: 'INT', options: { default: 1, min: 1, max: 4096 } },
      { name: 'color', type: 'INT', options: { default: 0, min: 0, max: 0xffffff, step: 1, display: 'color' } },
    ],
    outputs: [{ type: 'IMAGE' }],
    async execute(inputs, { signal }) {
      const [batch, height, width] = ['batch_size', 'height', 'width'].map((name) => numberInput(inputs, name)) as [
        number,
        number,
        number,
      ];
      checkPixels(batch, width, height);
      const color = numberInput(inputs, 'color');
      const levels = [16, 8, 0].map((shift) => ((color >> shift) & 0xff) / 0xff);
      return { outputs: [await tensorOf([batch, height, width, 3], (i) => levels[i % 3] ?? 0, signal)] };
    },
  };
}
