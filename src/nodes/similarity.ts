/** VisionBridgeSimilarity: how alike images are, by their features. */
import type { NodeDefinition, NodeInputs } from '../graph/index.js';
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import {
  cosineMatrix,
  imageVectors,
  SCORE_KINDS,
  scoreOf,
  VECTOR_KINDS,
  type ScoreKind,
  type VectorKind,
} from './feature-math.js';
import { featuresInput, textInput } from './values.js';

/** Side of a cell of the matrix as a picture, in pixels. */
const CELL = 32;
/** Decimals of the cosines in the text. */
const DECIMALS = 4;

export function createSimilarity(): NodeDefinition {
  return {
    classType: 'VisionBridgeSimilarity',
    api: 'v3',
    displayName: 'Image Similarity (Vision Bridge)',
    description:
      'Cosine similarity of every image of one batch with every image of another: one score, the matrix as a picture, and its values.',
    category: 'vision bridge',
    pythonModule: 'custom_nodes.vision-bridge',
    inputs: [
      { name: 'features_a', type: 'CLIP_VISION_OUTPUT' },
      { name: 'features_b', type: 'CLIP_VISION_OUTPUT' },
      ...similarityInputs(),
    ],
    outputs: [
      { type: 'FLOAT', name: 'score' },
      {
        type: 'IMAGE',
        name: 'matrix',
        tooltip: 'Images of a downwards, of b to the right; white is 1, black 0 or less.',
      },
      { type: 'STRING', name: 'values', tooltip: 'The matrix as JSON, by rows.' },
    ],
    execute(inputs) {
      const { cosines, score } = compare(inputs);
      const text = JSON.stringify(rowsOf(cosines));
      return {
        outputs: [score, pictureOf(cosines), text],
        ui: { text: [`score ${score.toFixed(DECIMALS)}\n${tableOf(cosines)}`] },
      };
    },
  };
}

/** The inputs that say what is compared, and how all pairs become one score. */
export function similarityInputs(): NodeDefinition['inputs'] {
  return [
    {
      name: 'compare',
      type: 'COMBO',
      choices: () => [...VECTOR_KINDS],
      options: { default: 'image embeds', tooltip: 'What stands for an image.' },
    },
    {
      name: 'score_of',
      type: 'COMBO',
      choices: () => [...SCORE_KINDS],
      options: { default: 'mean', tooltip: 'How the similarities of all pairs become one score.' },
    },
  ];
}

/** Compares `features_a` with `features_b`. */
export function compare(inputs: NodeInputs): { cosines: F32Tensor; score: number } {
  const kind: VectorKind = VECTOR_KINDS.find((known) => known === textInput(inputs, 'compare')) ?? 'image embeds';
  const reduction: ScoreKind = SCORE_KINDS.find((known) => known === textInput(inputs, 'score_of')) ?? 'mean';
  const [a, b] = (['features_a', 'features_b'] as const).map((name) =>
    imageVectors(featuresInput(inputs, name), kind, name),
  ) as [F32Tensor, F32Tensor];
  const cosines = cosineMatrix(a, b);
  return { cosines, score: scoreOf(cosines, reduction) };
}

function rowsOf({ shape, data }: F32Tensor): number[][] {
  const [rows = 0, columns = 0] = shape;
  return Array.from({ length: rows }, (_none, row) => Array.from(data.subarray(row * columns, (row + 1) * columns)));
}

function tableOf(cosines: F32Tensor): string {
  return rowsOf(cosines)
    .map((row) => row.map((value) => value.toFixed(DECIMALS)).join('  '))
    .join('\n');
}

/** Grey cells, f32 `[1, rows * CELL, columns * CELL, 3]`. */
function pictureOf({ shape, data }: F32Tensor): F32Tensor {
  const [rows = 0, columns = 0] = shape;
  const [height, width] = [rows * CELL, columns * CELL];
  const pixels = new Float32Array(height * width * 3);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const value = data[Math.floor(y / CELL) * columns + Math.floor(x / CELL)] ?? 0;
      pixels.fill(Math.min(1, Math.max(0, value)), (y * width + x) * 3, (y * width + x) * 3 + 3);
    }
  }
  return f32Tensor([1, height, width, 3], pixels);
}
