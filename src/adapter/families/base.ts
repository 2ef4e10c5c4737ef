/** The first adapters: one linear layer makes all tokens from the image embeds. Also the light ones. */
import { layerNorm, linear } from '../../onnx/index.js';
import { EPSILON, inputOf, linearShapes, normShapes, shapeOf, tokenCount, type AdapterFamily } from './family.js';

export const base: AdapterFamily = {
  projector: 'base',
  matches: (keys) => keys.has('proj.weight'),

  sizes(keys) {
    const [rows = 0, imageWidth = 0] = shapeOf(keys, 'proj.weight', 2);
    const [contextWidth = 0] = shapeOf(keys, 'norm.weight', 1);
    const tokens = tokenCount(rows, contextWidth, 'proj.weight');
    return { tokens, contextWidth, innerWidth: contextWidth, imageWidth };
  },

  needs: ({ tokens = 0, contextWidth, imageWidth = 0 }) =>
    new Map([...linearShapes('proj', tokens * contextWidth, imageWidth), ...normShapes('norm', contextWidth)]),

  inputs: ['image_embeds'],

  build({ g, weights, sizes: { tokens = 0, contextWidth } }, inputs) {
    const wide = linear(g, inputOf(inputs, 'image_embeds'), weights.linear('proj'));
    const split = g.reshape(wide, [-1, tokens, contextWidth]);
    return layerNorm(g, split, weights.norm('norm'), EPSILON);
  },
};
