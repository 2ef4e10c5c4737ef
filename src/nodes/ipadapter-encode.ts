/** VisionBridgeIPAdapterEncode: reference pictures to embeds, in the inference process. */
import { COMBINE_MODES, NOISE_KINDS, type Negative } from '../adapter/index.js';
import { InvalidRequestError } from '../common/errors.js';
import type { FaceChoice } from '../faces/index.js';
import type { NodeDefinition, NodeInputs } from '../graph/index.js';
import {
  CATEGORY,
  EMBEDS,
  IPADAPTER,
  ipadapterInput,
  MODULE,
  optionalMask,
  optionalNumber,
  optionalText,
} from './ipadapter-values.js';
import { precisionInput, PRECISION_INPUT } from './precision.js';
import type { NodeServices } from './services.js';
import { choiceInput, imageInput } from './values.js';

const MAX_TILES = 16;
const MAX_BLUR = 32;
const MAX_FACES = 64;
const NO_NOISE = 'none';
const BY_INDEX = 'index';

export function createIPAdapterEncode({ ipadapter }: NodeServices): NodeDefinition {
  return {
    classType: 'VisionBridgeIPAdapterEncode',
    api: 'v1',
    displayName: 'IP-Adapter Encode (Vision Bridge)',
    description: 'Reference pictures to embeds: weighed, masked, in tiles, combined, with what stands against them.',
    category: CATEGORY,
    pythonModule: MODULE,
    inputs: [
      { name: 'ipadapter', type: IPADAPTER },
      { name: 'image', type: 'IMAGE' },
      { name: 'weight', type: 'FLOAT', options: { default: 1, min: -1, max: 3, step: 0.01 } },
      { name: 'combine_embeds', type: 'COMBO', choices: () => COMBINE_MODES },
      { name: 'image_negative', type: 'IMAGE', optional: true },
      { name: 'mask', type: 'MASK', optional: true },
      {
        name: 'weights',
        type: 'STRING',
        optional: true,
        options: { default: '', tooltip: 'A weight per picture, such as "1.0, 0.5"; goes before weight.' },
      },
      {
        name: 'noise',
        type: 'COMBO',
        optional: true,
        choices: () => [NO_NOISE, ...NOISE_KINDS],
        options: { default: NO_NOISE, tooltip: 'The negative is noise, over image_negative where there is one.' },
      },
      { name: 'noise_strength', type: 'FLOAT', optional: true, options: { default: 1, min: 0, max: 1, step: 0.05 } },
      { name: 'noise_blur', type: 'INT', optional: true, options: { default: 0, min: 0, max: MAX_BLUR } },
      { name: 'tiles', type: 'INT', optional: true, options: { default: 1, min: 1, max: MAX_TILES } },
      { name: 'tiles_ratio', type: 'FLOAT', optional: true, options: { default: 1, min: 0, max: 1, step: 0.05 } },
      {
        name: 'face',
        type: 'COMBO',
        optional: true,
        choices: () => ['first', 'largest', BY_INDEX],
        options: { default: 'first', tooltip: 'first: the best score, as IPAdapter_plus takes it.' },
      },
      { name: 'face_index', type: 'INT', optional: true, options: { default: 0, min: 0, max: MAX_FACES } },
      { ...PRECISION_INPUT, optional: true },
    ],
    outputs: [{ type: EMBEDS, name: 'embeds' }],
    async execute(inputs, { signal }) {
      const pair = ipadapterInput(inputs, 'ipadapter');
      const reference = {
        images: imageInput(inputs, 'image'),
        weight: readWeights(optionalText(inputs, 'weights', '')) ?? optionalNumber(inputs, 'weight', 1),
        mask: optionalMask(inputs, 'mask'),
      };
      const embeds = await ipadapter.references.encode(pair, [reference], {
        combine: choiceInput(inputs, 'combine_embeds', COMBINE_MODES),
        negative: negativeOf(inputs),
        tiles: optionalNumber(inputs, 'tiles', 1),
        ratio: optionalNumber(inputs, 'tiles_ratio', 1),
        face: faceOf(inputs),
        precision: inputs['precision'] === undefined ? 'comfy' : precisionInput(inputs, 'precision'),
        signal,
      });
      return { outputs: [embeds] };
    },
  };
}

function negativeOf(inputs: NodeInputs): Negative | undefined {
  const images = inputs['image_negative'] === undefined ? undefined : imageInput(inputs, 'image_negative');
  if (optionalText(inputs, 'noise', NO_NOISE) === NO_NOISE)
    return images === undefined ? undefined : { kind: 'images', images };
  const kind = choiceInput(inputs, 'noise', NOISE_KINDS);
  const strength = optionalNumber(inputs, 'noise_strength', 1);
  const blur = optionalNumber(inputs, 'noise_blur', 0);
  return { kind: 'noise', noise: { kind, strength, blur }, picture: images };
}

function faceOf(inputs: NodeInputs): FaceChoice {
  const choice = optionalText(inputs, 'face', 'first');
  if (choice === BY_INDEX) return optionalNumber(inputs, 'face_index', 0);
  return choice === 'largest' ? 'largest' : 'first';
}

/** `1.0, 0.5` as numbers; undefined where there are none. @throws {InvalidRequestError} */
function readWeights(text: string): number[] | undefined {
  if (text.trim() === '') return undefined;
  const weights = text.split(',').map((entry) => (entry.trim() === '' ? NaN : Number(entry)));
  if (!weights.every(Number.isFinite))
    throw new InvalidRequestError(`"${text}" is no list of weights: write them as "1.0, 0.5".`);
  return weights;
}
