/** VisionBridgeEncode: images to CLIP_VISION_OUTPUT in one node, with progress image by image. */
import type { NodeDefinition } from '../graph/index.js';
import { precisionInput, PRECISION_INPUT } from './precision.js';
import type { NodeServices } from './services.js';
import { imageInput, textInput } from './values.js';
import { fileIdentity } from './wire-codec.js';

export function createVisionBridgeEncode({ paths, vision }: NodeServices): NodeDefinition {
  return {
    classType: 'VisionBridgeEncode',
    api: 'v3',
    displayName: 'Encode Images (Vision Bridge)',
    description:
      'Encodes images with a CLIP vision encoder outside the GPU. The features go wherever a CLIP_VISION_OUTPUT goes.',
    category: 'vision bridge',
    pythonModule: 'custom_nodes.vision-bridge',
    inputs: [
      {
        name: 'clip_name',
        type: 'COMBO',
        choices: () => paths.list('clip_vision'),
        choicesFrom: { kind: 'models', folder: 'clip_vision' },
        options: { tooltip: 'A model of the clip_vision folder.' },
      },
      { name: 'image', type: 'IMAGE' },
      {
        name: 'crop',
        type: 'COMBO',
        choices: () => ['center', 'none'],
        options: { default: 'center', tooltip: 'center keeps the aspect ratio and cuts the sides, none stretches.' },
      },
      PRECISION_INPUT,
    ],
    outputs: [{ type: 'CLIP_VISION_OUTPUT', name: 'features' }],
    changeToken: async (inputs) => fileIdentity(await paths.resolve('clip_vision', textInput(inputs, 'clip_name'))),
    async execute(inputs, { signal, reportProgress, sendText }) {
      const name = textInput(inputs, 'clip_name');
      const model = await vision.open(await paths.resolve('clip_vision', name), { signal });
      const output = await vision.encode(model, imageInput(inputs, 'image'), {
        crop: textInput(inputs, 'crop') === 'center' ? 'center' : 'none',
        precision: precisionInput(inputs, 'precision'),
        signal,
        onProgress: (progress) => {
          if (signal.aborted) return;
          if (progress.stage === 'loading') sendText(`Loading ${name} …`);
          else if (progress.stage !== 'fallback') reportProgress(progress.done, progress.total);
        },
      });
      return { outputs: [output] };
    },
  };
}
