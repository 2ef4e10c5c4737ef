/** PreviewImage: pictures into the temp folder, shown by the front end. Source: ComfyUI, nodes.py. */
import { randomInt } from 'node:crypto';
import type { NodeContext, NodeDefinition } from '../graph/index.js';
import { saveImages } from './saved-images.js';
import type { NodeServices } from './services.js';
import { imageInput } from './values.js';

const LETTERS = 'abcdefghijklmnopqrstuvwxyz';
const RANDOM_LETTERS = 5;

export function createPreviewImage(services: NodeServices): NodeDefinition {
  return {
    classType: 'PreviewImage',
    api: 'v1',
    displayName: 'Preview Image',
    description: 'Shows images without keeping them: they go to the temp folder.',
    category: 'image',
    pythonModule: 'nodes',
    inputs: [{ name: 'images', type: 'IMAGE' }],
    hidden: { prompt: 'PROMPT', extra_pnginfo: 'EXTRA_PNGINFO' },
    outputs: [],
    isOutputNode: true,
    async execute(inputs, context) {
      const target = { area: 'temp', prefix: `ComfyUI_temp_${suffixOf(context)}`, compression: 1 } as const;
      return { ui: { images: await saveImages(services, imageInput(inputs, 'images'), target, context) } };
    },
  };
}

/** Random, and the same for a node over consecutive prompts. */
function suffixOf({ state }: NodeContext): string {
  const known = state.get('suffix');
  if (typeof known === 'string') return known;
  const suffix = Array.from({ length: RANDOM_LETTERS }, () => LETTERS[randomInt(LETTERS.length)]).join('');
  state.set('suffix', suffix);
  return suffix;
}
