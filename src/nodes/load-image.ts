/** LoadImage: a picture of the input folder as IMAGE and MASK. Source: ComfyUI, nodes.py. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { BridgeError } from '../common/errors.js';
import { PythonError, type NodeDefinition } from '../graph/index.js';
import { decodeImage, toImageTensor, type DecodedImage } from '../image/index.js';
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import { inputFilePath, isInputFile, listInputImages } from './input-files.js';
import type { NodeServices } from './services.js';
import { textInput } from './values.js';

/** Side of the empty mask of a picture without alpha. */
const EMPTY_MASK_SIDE = 64;

export function createLoadImage(services: NodeServices): NodeDefinition {
  const path = (name: string): string => {
    const found = inputFilePath(services, name);
    if (found === undefined) throw new BridgeError('PATH_OUTSIDE_FOLDER', `"${name}" leads out of its folder.`);
    return found;
  };
  return {
    classType: 'LoadImage',
    api: 'v1',
    displayName: 'Load Image',
    category: 'image',
    pythonModule: 'nodes',
    inputs: [
      { name: 'image', type: 'COMBO', choices: () => listInputImages(services), options: { image_upload: true } },
    ],
    outputs: [{ type: 'IMAGE' }, { type: 'MASK' }],
    validator: {
      names: ['image'],
      check: async (inputs) => {
        const name = textInput(inputs, 'image');
        return (await isInputFile(services, name)) || `Invalid image file: ${name}`;
      },
    },
    changeToken: async (inputs) =>
      createHash('sha256')
        .update(await readFile(path(textInput(inputs, 'image'))))
        .digest('hex'),
    async execute(inputs, { signal }) {
      const name = textInput(inputs, 'image');
      try {
        const image = await decodeImage(path(name), { label: name, signal });
        return { outputs: [toImageTensor(image.rgb), maskOf(image)] };
      } catch (error) {
        // Clients of ComfyUI match on Pillow's name for a file that is no image.
        if (error instanceof BridgeError && error.code === 'IMAGE_INVALID')
          throw new PythonError('PIL.UnidentifiedImageError', error.message);
        throw error;
      }
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
