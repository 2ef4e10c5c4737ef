/** VisionBridgeIPAdapterLoader: an IP-Adapter with the encoder and the face networks that go with it, found by content. */
import { findEncoder, openFacePack } from '../adapter/index.js';
import type { NodeDefinition } from '../graph/index.js';
import {
  AUTO,
  CATEGORY,
  choicesOf,
  IPADAPTER,
  MODULE,
  optionalText,
  type LoadedIPAdapter,
} from './ipadapter-values.js';
import type { IPAdapterServices, NodeServices } from './services.js';
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
      { name: 'ipadapter', type: 'COMBO', choices: () => choicesOf(ipadapter, 'adapters') },
      {
        name: 'clip_vision',
        type: 'COMBO',
        optional: true,
        choices: () => choicesOf(ipadapter, 'encoders', true),
        options: { default: AUTO, tooltip: 'auto: the first file of the clip_vision folders that fits by content.' },
      },
      {
        name: 'face_pack',
        type: 'COMBO',
        optional: true,
        choices: () => choicesOf(ipadapter, 'facePacks', true),
        options: { default: AUTO, tooltip: 'FaceID adapters only. A folder of models/insightface/models.' },
      },
    ],
    outputs: [{ type: IPADAPTER, name: 'ipadapter' }],
    async execute(inputs, { signal }) {
      const names = {
        name: textInput(inputs, 'ipadapter'),
        encoderName: optionalText(inputs, 'clip_vision', AUTO),
        facePack: optionalText(inputs, 'face_pack', AUTO),
      };
      return { outputs: [await loadIPAdapter(ipadapter, vision, names, signal)] };
    },
  };
}

/** @throws {BridgeError} `MODEL_NOT_FOUND`, `ADAPTER_UNKNOWN`, saying what was looked for and where */
async function loadIPAdapter(
  { adapters, faces, folders }: IPAdapterServices,
  vision: NodeServices['vision'],
  { name, encoderName, facePack }: { name: string; encoderName: string; facePack: string },
  signal: AbortSignal,
): Promise<LoadedIPAdapter> {
  const adapter = await adapters.open(await folders.adapters.resolve(name), { signal });
  const encoder =
    adapter.encoder === undefined
      ? undefined
      : encoderName === AUTO
        ? await findEncoder(adapter, folders.encoders, vision, signal)
        : { name: encoderName, model: await vision.open(await folders.encoders.resolve(encoderName), { signal }) };
  const pack = facePack === AUTO ? undefined : facePack;
  return {
    kind: 'ipadapter',
    name,
    adapter,
    encoderName: encoder?.name,
    encoder: encoder?.model,
    faces: adapter.face === undefined ? undefined : await openFacePack(faces, folders.facePacks, pack),
  };
}
