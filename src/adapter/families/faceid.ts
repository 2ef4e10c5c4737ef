/** FaceID and portrait: a two-layer network makes all tokens from the embedding of a face. */
import { activation, layerNorm, linear, type Value } from '../../onnx/index.js';
import {
  EPSILON,
  inputOf,
  linearShapes,
  normShapes,
  shapeOf,
  tokenCount,
  type AdapterFamily,
  type ProjectionBuild,
  type ProjectionSizes,
} from './family.js';
import type { TensorInfo } from '../../formats/index.js';
import type { Shape } from '../../tensor/tensor.js';

export const faceid: AdapterFamily = {
  projector: 'faceid',
  matches: (keys) => keys.has('proj.2.weight') && !keys.has('proj.3.weight'),
  sizes(keys) {
    const { tokens, width, ...rest } = faceSizes(keys);
    return { tokens, contextWidth: width, innerWidth: width, ...rest };
  },
  needs: (sizes) => new Map(faceShapes(sizes)),
  inputs: ['face'],
  build: (build, inputs) => faceTokens(build, inputOf(inputs, 'face')),
};

/** Sizes of the network over a face's embedding; FaceID-plus begins with the same one. */
export function faceSizes(keys: ReadonlyMap<string, TensorInfo>): {
  readonly tokens: number;
  readonly width: number;
  readonly faceWidth: number;
  readonly hiddenWidth: number;
} {
  const [hiddenWidth = 0, faceWidth = 0] = shapeOf(keys, 'proj.0.weight', 2);
  const [rows = 0] = shapeOf(keys, 'proj.2.weight', 2);
  const [width = 0] = shapeOf(keys, 'norm.weight', 1);
  return { tokens: tokenCount(rows, width, 'proj.2.weight'), width, faceWidth, hiddenWidth };
}

export function faceShapes({
  tokens = 0,
  innerWidth,
  faceWidth = 0,
  hiddenWidth = 0,
}: ProjectionSizes): [string, Shape][] {
  return [
    ...linearShapes('proj.0', hiddenWidth, faceWidth),
    ...linearShapes('proj.2', tokens * innerWidth, hiddenWidth),
    ...normShapes('norm', innerWidth),
  ];
}

/** `[B, T, width]` */
export function faceTokens({ g, weights, sizes }: ProjectionBuild, face: Value): Value {
  const { tokens = 0, innerWidth, faceWidth = 0 } = sizes;
  const wide = activation(g, linear(g, g.reshape(face, [-1, faceWidth]), weights.linear('proj.0')), 'gelu');
  const split = g.reshape(linear(g, wide, weights.linear('proj.2')), [-1, tokens, innerWidth]);
  return layerNorm(g, split, weights.norm('norm'), EPSILON);
}
