/** VisionBridgePatchMap: what an encoder sees in each patch of an image, as a picture. */
import { InvalidRequestError } from '../common/errors.js';
import type { NodeDefinition } from '../graph/index.js';
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import { cosineMatrix, patchesOf, STATE_KINDS, type Patches } from './feature-math.js';
import { projectOnComponents } from './principal-components.js';
import { featuresInput, numberInput, textInput } from './values.js';

const VIEWS = ['principal components', 'similarity to a patch'] as const;
const COLOURS = 3;
const MAX_SIDE = 4096;
/** Of all values, this share is cut at either end before colours are spread: single patches far off would darken all others. */
const CUT = 0.01;

export function createPatchMap(): NodeDefinition {
  return {
    classType: 'VisionBridgePatchMap',
    api: 'v3',
    displayName: 'Patch Map (Vision Bridge)',
    description:
      'The patch features of images as pictures: their three principal components as red, green and blue, or the similarity of one patch to all others.',
    category: 'vision bridge',
    pythonModule: 'custom_nodes.vision-bridge',
    inputs: [
      { name: 'features', type: 'CLIP_VISION_OUTPUT' },
      { name: 'view', type: 'COMBO', choices: () => [...VIEWS], options: { default: VIEWS[0] } },
      {
        name: 'state',
        type: 'COMBO',
        choices: () => [...STATE_KINDS],
        options: { default: 'penultimate_hidden_states' },
      },
      {
        name: 'x',
        type: 'FLOAT',
        options: { default: 0.5, min: 0, max: 1, step: 0.01, tooltip: 'Where the patch is, from left to right.' },
      },
      {
        name: 'y',
        type: 'FLOAT',
        options: { default: 0.5, min: 0, max: 1, step: 0.01, tooltip: 'Where the patch is, from top to bottom.' },
      },
      {
        name: 'side',
        type: 'INT',
        options: { default: 512, min: 8, max: MAX_SIDE, tooltip: 'Longer side in pixels.' },
      },
      {
        name: 'rows',
        type: 'INT',
        options: { default: 0, min: 0, max: MAX_SIDE, tooltip: 'Rows of patches; 0 for a square grid.' },
      },
    ],
    outputs: [
      { type: 'IMAGE', name: 'image' },
      { type: 'MASK', name: 'mask', tooltip: 'The similarity, or the first component.' },
    ],
    async execute(inputs, { signal }) {
      const state = STATE_KINDS.find((known) => known === textInput(inputs, 'state')) ?? 'last_hidden_state';
      const patches = patchesOf(featuresInput(inputs, 'features'), state, numberInput(inputs, 'rows'), 'features');
      const isComponents = textInput(inputs, 'view') === VIEWS[0];
      const values = isComponents
        ? await components(patches, signal)
        : similarities(patches, numberInput(inputs, 'x'), numberInput(inputs, 'y'));
      const size = sizeOf(patches, numberInput(inputs, 'side'));
      return { outputs: [enlarge(values, patches, size), maskOf(values, patches, size)] };
    },
  };
}

/** Components of the patches of all images together, spread to 0..1: f32 `[B, patches, 3]`. */
async function components({ patches }: Patches, signal: AbortSignal): Promise<F32Tensor> {
  const [batch = 0, count = 0, width = 0] = patches.shape;
  const projected = await projectOnComponents(f32Tensor([batch * count, width], patches.data), COLOURS, signal);
  const spread = new Float32Array(projected.data.length);
  for (let colour = 0; colour < COLOURS; colour += 1) {
    const column = projected.data.filter((_value, i) => i % COLOURS === colour).sort();
    const low = column[Math.floor((column.length - 1) * CUT)] ?? 0;
    const high = column[Math.ceil((column.length - 1) * (1 - CUT))] ?? 0;
    for (let i = colour; i < spread.length; i += COLOURS)
      spread[i] = high > low ? Math.min(1, Math.max(0, ((projected.data[i] ?? 0) - low) / (high - low))) : 0.5;
  }
  return f32Tensor([batch, count, COLOURS], spread);
}

/** Cosine of the patch at a place of each image with all patches of that image, cut at 0, as grey: f32 `[B, patches, 3]`. */
function similarities({ patches, rows, columns }: Patches, x: number, y: number): F32Tensor {
  const [batch = 0, count = 0, width = 0] = patches.shape;
  const chosen = Math.min(rows - 1, Math.floor(y * rows)) * columns + Math.min(columns - 1, Math.floor(x * columns));
  const grey = new Float32Array(batch * count * COLOURS);
  for (let image = 0; image < batch; image += 1) {
    const data = patches.data.subarray(image * count * width, (image + 1) * count * width);
    const one = f32Tensor([1, width], data.subarray(chosen * width, (chosen + 1) * width));
    cosineMatrix(one, f32Tensor([count, width], data)).data.forEach((value, patch) => {
      grey.fill(Math.max(0, value), (image * count + patch) * COLOURS, (image * count + patch + 1) * COLOURS);
    });
  }
  return f32Tensor([batch, count, COLOURS], grey);
}

interface Size {
  readonly height: number;
  readonly width: number;
}

function sizeOf({ rows, columns, patches }: Patches, side: number): Size {
  const scale = side / Math.max(rows, columns);
  const size = { height: Math.max(1, Math.round(rows * scale)), width: Math.max(1, Math.round(columns * scale)) };
  const values = (patches.shape[0] ?? 0) * size.height * size.width * COLOURS;
  if (values > MAX_VALUES)
    throw new InvalidRequestError(
      `${patches.shape[0] ?? 0} maps of ${side} pixels are too many at once; lower "side".`,
    );
  return size;
}

/** Bound of one result: 512 MB. */
const MAX_VALUES = 2 ** 27;

/** Patches as squares of one colour: f32 `[B, height, width, 3]`. */
function enlarge({ shape, data }: F32Tensor, { rows, columns }: Patches, { height, width }: Size): F32Tensor {
  const [batch = 0, count = 0] = shape;
  const pixels = new Float32Array(batch * height * width * COLOURS);
  for (let at = 0; at < batch * height * width; at += 1) {
    const row = Math.floor((Math.floor((at % (height * width)) / width) * rows) / height);
    const column = Math.floor(((at % width) * columns) / width);
    const patch = (Math.floor(at / (height * width)) * count + row * columns + column) * COLOURS;
    pixels.set(data.subarray(patch, patch + COLOURS), at * COLOURS);
  }
  return f32Tensor([batch, height, width, COLOURS], pixels);
}

/** The first colour of the picture: f32 `[B, height, width]`. */
function maskOf(values: F32Tensor, patches: Patches, size: Size): F32Tensor {
  const { shape, data } = enlarge(values, patches, size);
  const [batch = 0, height = 0, width = 0] = shape;
  return f32Tensor(
    [batch, height, width],
    Float32Array.from({ length: data.length / COLOURS }, (_none, i) => data[i * COLOURS] ?? 0),
  );
}
