/** PreviewImage: pictures into the temp folder, shown by the front end. Source: ComfyUI, nodes.py. */
import { randomInt } from 'node:crypto';
import type { NodeContext, NodeDefinition } from '../graph/index.js';
import { encodePng } from '../image/index.js';
import { writeAsciiJson } from '../protocol/json.js';
import { beginOutputSeries } from './output-files.js';
import type { NodeServices } from './services.js';
import { imageInput } from './values.js';

const LETTERS = 'abcdefghijklmnopqrstuvwxyz';
const RANDOM_LETTERS = 5;

export function createPreviewImage({ directories, disableMetadata }: NodeServices): NodeDefinition {
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
      const images = imageInput(inputs, 'images');
      const [batch = 0, height = 0, width = 0] = images.shape;
      const series = await beginOutputSeries(directories.temp, `ComfyUI_temp_${suffixOf(context)}`, { width, height });
      const texts = disableMetadata ? new Map<string, string>() : metadataTexts(context);
      const shown = [];
      for (let index = 0; index < batch; index += 1) {
        const file = await series.write(await encodePng(images, index, texts, 1), 'png');
        shown.push({ ...file, type: 'temp' });
      }
      return { ui: { images: shown } };
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

/** Text chunks that let a front end rebuild the workflow from the picture. */
function metadataTexts({ prompt, extraPngInfo }: NodeContext): Map<string, string> {
  const texts = new Map([['prompt', writeAsciiJson(prompt)]]);
  for (const [key, value] of extraPngInfo ?? []) texts.set(key, writeAsciiJson(value));
  return texts;
}
