/** SaveImageWebsocket: pictures to the client, as preview frames of full size. Source: ComfyUI, custom_nodes/websocket_image_save.py. */
import type { NodeDefinition } from '../graph/index.js';
import { encodePng } from '../image/index.js';
import { imageSize } from './image-shapes.js';
import { imageInput } from './values.js';

export function createSaveImageWebsocket(): NodeDefinition {
  return {
    classType: 'SaveImageWebsocket',
    api: 'v1',
    category: 'api/image',
    pythonModule: 'custom_nodes.websocket_image_save',
    inputs: [{ name: 'images', type: 'IMAGE' }],
    outputs: [],
    isOutputNode: true,
    // The clock: nothing of this node is worth keeping.
    changeToken: () => Date.now() / 1000 + Math.random() * 1e-3,
    async execute(inputs, { reportProgress }) {
      const images = imageInput(inputs, 'images');
      const { batch } = imageSize(images);
      for (let index = 0; index < batch; index += 1)
        reportProgress(index, batch, { format: 'png', bytes: await encodePng(images, index, new Map(), 1) });
      return {};
    },
  };
}
