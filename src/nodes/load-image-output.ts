/** LoadImageOutput: a picture of the output folder, chosen from a list that the client asks for. Source: ComfyUI, nodes.py. */
import type { NodeDefinition } from '../graph/index.js';
import { loadsImage } from './load-image.js';
import type { NodeServices } from './services.js';

export function createLoadImageOutput(services: NodeServices): NodeDefinition {
  return {
    classType: 'LoadImageOutput',
    api: 'v1',
    displayName: 'Load Image (from Outputs)',
    description: 'Loads a picture that an earlier run saved; the refresh button reads the list again.',
    category: 'image',
    pythonModule: 'nodes',
    isExperimental: true,
    inputs: [
      {
        name: 'image',
        type: 'COMBO',
        options: {
          image_upload: true,
          image_folder: 'output',
          remote: { route: '/internal/files/output', refresh_button: true, control_after_refresh: 'first' },
        },
      },
    ],
    ...loadsImage(services),
  };
}
