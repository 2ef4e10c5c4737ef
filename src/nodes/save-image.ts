/** SaveImage: pictures into the output folder. Source: ComfyUI, nodes.py. */
import type { NodeDefinition } from '../graph/index.js';
import { saveImages } from './saved-images.js';
import type { NodeServices } from './services.js';
import { imageInput, textInput } from './values.js';

export function createSaveImage(services: NodeServices): NodeDefinition {
  return {
    classType: 'SaveImage',
    api: 'v1',
    displayName: 'Save Image',
    description: 'Writes images into the output folder.',
    category: 'image',
    pythonModule: 'nodes',
    inputs: [
      { name: 'images', type: 'IMAGE', options: { tooltip: 'The images to write.' } },
      {
        name: 'filename_prefix',
        type: 'STRING',
        options: {
          default: 'ComfyUI',
          tooltip: 'Begins the file names; may hold folders and %date:yyyy-MM-dd% or %width% and the like.',
        },
      },
    ],
    hidden: { prompt: 'PROMPT', extra_pnginfo: 'EXTRA_PNGINFO' },
    outputs: [],
    isOutputNode: true,
    async execute(inputs, context) {
      const target = { area: 'output', prefix: textInput(inputs, 'filename_prefix'), compression: 4 } as const;
      return { ui: { images: await saveImages(services, imageInput(inputs, 'images'), target, context) } };
    },
  };
}
