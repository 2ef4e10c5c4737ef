/** CLIPVisionLoader: a vision encoder of the clip_vision folder, by header; nothing is loaded yet. Source: ComfyUI, nodes.py. */
import type { NodeDefinition } from '../graph/index.js';
import type { NodeServices } from './services.js';
import { textInput } from './values.js';
import type { NamedVisionModel } from './wire-values.js';

export function createClipVisionLoader({ paths, vision }: NodeServices): NodeDefinition {
  return {
    classType: 'CLIPVisionLoader',
    api: 'v1',
    displayName: 'Load CLIP Vision',
    category: 'loaders',
    pythonModule: 'nodes',
    inputs: [{ name: 'clip_name', type: 'COMBO', choices: () => paths.list('clip_vision') }],
    outputs: [{ type: 'CLIP_VISION' }],
    async execute(inputs, { signal }) {
      const name = textInput(inputs, 'clip_name');
      const model = await vision.open(await paths.resolve('clip_vision', name), { signal });
      return { outputs: [{ ...model, name } satisfies NamedVisionModel] };
    },
  };
}
