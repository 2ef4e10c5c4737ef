/** LoadImageMask: one channel of a picture as MASK. Source: ComfyUI, nodes.py. */
import type { NodeDefinition } from '../graph/index.js';
import type { DecodedImage } from '../image/index.js';
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import { decodeInputImage, imageFileHash, imageFileValidator, listInputFiles } from './input-files.js';
import type { NodeServices } from './services.js';
import { choiceInput, textInput } from './values.js';

const CHANNELS = ['alpha', 'red', 'green', 'blue'] as const;
const COLORS = ['red', 'green', 'blue'] as const;

export function createLoadImageMask(services: NodeServices): NodeDefinition {
  return {
    classType: 'LoadImageMask',
    api: 'v1',
    displayName: 'Load Image (as Mask)',
    category: 'mask',
    pythonModule: 'nodes',
    inputs: [
      { name: 'image', type: 'COMBO', choices: () => listInputFiles(services), options: { image_upload: true } },
      { name: 'channel', type: 'COMBO', choices: () => CHANNELS },
    ],
    outputs: [{ type: 'MASK' }],
    validator: imageFileValidator(services),
    changeToken: (inputs) => imageFileHash(services, textInput(inputs, 'image')),
    async execute(inputs, { signal }) {
      const image = await decodeInputImage(services, textInput(inputs, 'image'), signal);
      return { outputs: [channelOf(image, choiceInput(inputs, 'channel', CHANNELS))] };
    },
  };
}

/** Of the first frame: a colour as it is, alpha as 1 - alpha; a picture without alpha is opaque. */
function channelOf({ rgb, alpha }: DecodedImage, channel: (typeof CHANNELS)[number]): F32Tensor {
  const [, height = 0, width = 0] = rgb.shape;
  const out = new Float32Array(height * width);
  if (channel === 'alpha') {
    if (alpha !== undefined)
      for (let i = 0; i < out.length; i += 1) out[i] = 1 - Math.fround((alpha.data[i] ?? 0) / 255);
  } else {
    const offset = COLORS.indexOf(channel);
    for (let i = 0; i < out.length; i += 1) out[i] = (rgb.data[i * 3 + offset] ?? 0) / 255;
  }
  return f32Tensor([1, height, width], out);
}
