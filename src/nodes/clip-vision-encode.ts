/** CLIPVisionEncode: images to CLIP_VISION_OUTPUT, in the inference process. Source: ComfyUI, nodes.py. */
import type { NodeDefinition } from '../graph/index.js';
import type { NodeServices } from './services.js';
import { imageInput, textInput, visionModelInput } from './values.js';

export function createClipVisionEncode({ vision }: NodeServices): NodeDefinition {
  return {
    classType: 'CLIPVisionEncode',
    api: 'v1',
    displayName: 'CLIP Vision Encode',
    category: 'conditioning',
    pythonModule: 'nodes',
    inputs: [
      { name: 'clip_vision', type: 'CLIP_VISION' },
      { name: 'image', type: 'IMAGE' },
      { name: 'crop', type: 'COMBO', choices: () => ['center', 'none'] },
    ],
    outputs: [{ type: 'CLIP_VISION_OUTPUT' }],
    async execute(inputs, { signal }) {
      const model = visionModelInput(inputs, 'clip_vision');
      const crop = textInput(inputs, 'crop') === 'center' ? 'center' : 'none';
      // As ComfyUI: whatever the encoder has, all hidden states of a SigLIP included.
      const output = await vision.encode(model, imageInput(inputs, 'image'), { crop, outputs: model.outputs, signal });
      return { outputs: [output] };
    },
  };
}
