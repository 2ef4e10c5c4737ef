/** LoadImage: a picture of the input folder as IMAGE and MASK. Source: ComfyUI, nodes.py. */
import type { NodeDefinition } from '../graph/index.js';
import { toImageTensor, type DecodedImage } from '../image/index.js';
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import { decodeInputImage, imageFileHash, imageFileValidator, listInputImages } from './input-files.js';
import type { NodeServices } from './services.js';
import { textInput } from './values.js';

/** Side of the empty mask of a picture without alpha. */
const EMPTY_MASK_SIDE = 64;

export function createLoadImage(services: NodeServices): NodeDefinition {
  return {
    classType: 'LoadImage',
    api: 'v1',
    displayName: 'Load Image',
    category: 'image',
    pythonModule: 'nodes',
    inputs: [
      { name: 'image', type: 'COMBO', choices: () => listInputImages(services), options: { image_upload: true } },
    ],
    ...loadsImage(services),
  };
}

/** What all nodes do that load a whole picture, wherever their choices come from. */
export function loadsImage(
  services: NodeServices,
): Pick<NodeDefinition, 'outputs' | 'validator' | 'changeToken' | 'execute'> {
  return {
    outputs: [{ type: 'IMAGE' }, { type: 'MASK' }],
    validator: imageFileValidator(services),
    changeToken: (inputs) => imageFileHash(services, textInput(inputs, 'image')),
    async execute(inputs, { signal }) {
      const image = await decodeInputImage(services, textInput(inputs, 'image'), signal);
      return { outputs: [toImageTensor(image.rgb), maskOf(image)] };
    },
  };
}

/** 1 - alpha, or zeros. */
function maskOf({ alpha, rgb }: DecodedImage): F32Tensor {
  if (alpha === undefined) {
    const [batch = 1] = rgb.shape;
    return f32Tensor([batch, EMPTY_MASK_SIDE, EMPTY_MASK_SIDE], new Float32Array(batch * EMPTY_MASK_SIDE ** 2));
  }
  return f32Tensor(
    alpha.shape,
    Float32Array.from(alpha.data, (value) => 1 - Math.fround(value / 255)),
  );
}
