/** VisionBridgeFaceSimilarity: how alike the faces of two pictures are. */
import { openFacePack } from '../adapter/index.js';
import { faceSimilarity } from '../faces/index.js';
import type { NodeDefinition } from '../graph/index.js';
import { AUTO, choicesOf, MODULE, optionalText } from './ipadapter-values.js';
import type { NodeServices } from './services.js';
import { imageInput } from './values.js';

export function createFaceSimilarity({ ipadapter }: NodeServices): NodeDefinition {
  return {
    classType: 'VisionBridgeFaceSimilarity',
    api: 'v1',
    displayName: 'Face Similarity (Vision Bridge)',
    description:
      'Cosine of the ArcFace embeddings of two faces: near 1 for one person, near 0 for two. No face is an error.',
    category: 'vision bridge/faces',
    pythonModule: MODULE,
    inputs: [
      { name: 'image_a', type: 'IMAGE' },
      { name: 'image_b', type: 'IMAGE' },
      {
        name: 'face_pack',
        type: 'COMBO',
        optional: true,
        choices: () => choicesOf(ipadapter, 'facePacks', true),
        choicesFrom: { kind: 'face-packs', before: [AUTO] },
        options: { default: AUTO },
      },
      {
        name: 'face',
        type: 'COMBO',
        optional: true,
        choices: () => ['largest', 'first'],
        options: { default: 'largest' },
      },
    ],
    outputs: [{ type: 'FLOAT', name: 'similarity' }],
    async execute(inputs, { signal }) {
      const { faces, folders } = ipadapter;
      const pack = optionalText(inputs, 'face_pack', AUTO);
      const model = await openFacePack(faces, folders.facePacks, pack === AUTO ? undefined : pack);
      const choice = optionalText(inputs, 'face', 'largest') === 'first' ? 'first' : 'largest';
      const [a] = await faces.find(model, imageInput(inputs, 'image_a'), { choice, signal });
      const [b] = await faces.find(model, imageInput(inputs, 'image_b'), { choice, signal });
      // `find` gives one face per picture, or throws.
      return { outputs: a === undefined || b === undefined ? [] : [faceSimilarity(a.embedding, b.embedding)] };
    },
  };
}
