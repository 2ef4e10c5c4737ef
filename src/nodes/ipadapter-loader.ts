/** VisionBridgeIPAdapterLoader: an IP-Adapter with the encoder and the face networks that go with it, found by content. */
import type { NodeDefinition } from '../graph/index.js';
import { AUTO, CATEGORY, choicesOf, IPADAPTER, MODULE, openIPAdapter, optionalText } from './ipadapter-values.js';
import type { NodeServices } from './services.js';
import { textInput } from './values.js';

export function createIPAdapterLoader({ ipadapter, vision }: NodeServices): NodeDefinition {
  return {
    classType: 'VisionBridgeIPAdapterLoader',
    api: 'v1',
    displayName: 'Load IP-Adapter (Vision Bridge)',
    description:
      'Opens an IP-Adapter and finds the vision encoder that it was trained with, whatever the files are called.',
    category: CATEGORY,
    pythonModule: MODULE,
    inputs: [
      {
        name: 'ipadapter',
        type: 'COMBO',
        choices: () => choicesOf(ipadapter, 'adapters'),
        choicesFrom: { kind: 'ipadapters' },
        options: { tooltip: 'A file of the ipadapter folder, which lies beside clip_vision.' },
      },
      {
        name: 'clip_vision',
        type: 'COMBO',
        optional: true,
        choices: () => choicesOf(ipadapter, 'encoders', true),
        choicesFrom: { kind: 'models', folder: 'clip_vision', before: [AUTO] },
        options: { default: AUTO, tooltip: 'auto: the first file of the clip_vision folders that fits by content.' },
      },
      {
        name: 'face_pack',
        type: 'COMBO',
        optional: true,
        choices: () => choicesOf(ipadapter, 'facePacks', true),
        choicesFrom: { kind: 'face-packs', before: [AUTO] },
        options: { default: AUTO, tooltip: 'FaceID adapters only. A folder of models/insightface/models.' },
      },
    ],
    outputs: [{ type: IPADAPTER, name: 'ipadapter' }],
    async execute(inputs, { signal }) {
      const chosen = (input: string): string | undefined => {
        const name = optionalText(inputs, input, AUTO);
        return name === AUTO ? undefined : name;
      };
      const names = {
        name: textInput(inputs, 'ipadapter'),
        encoderName: chosen('clip_vision'),
        facePack: chosen('face_pack'),
      };
      return { outputs: [await openIPAdapter(ipadapter, vision, names, signal)] };
    },
  };
}
