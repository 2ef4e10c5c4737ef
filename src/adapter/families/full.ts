/** Full face: every token of the encoder becomes an image prompt token, the class token included. */
import { activation, layerNorm, linear } from '../../onnx/index.js';
import { EPSILON, inputOf, linearShapes, normShapes, shapeOf, type AdapterFamily } from './family.js';

export const full: AdapterFamily = {
  projector: 'full',
  matches: (keys) => keys.has('proj.3.weight'),

  sizes(keys) {
    const [hiddenWidth = 0, imageWidth = 0] = shapeOf(keys, 'proj.0.weight', 2);
    const [contextWidth = 0] = shapeOf(keys, 'proj.2.weight', 2);
    return { tokens: undefined, contextWidth, innerWidth: contextWidth, imageWidth, hiddenWidth };
  },

  needs: ({ contextWidth, imageWidth = 0, hiddenWidth = 0 }) =>
    new Map([
      ...linearShapes('proj.0', hiddenWidth, imageWidth),
      ...linearShapes('proj.2', contextWidth, hiddenWidth),
      ...normShapes('proj.3', contextWidth),
    ]),

  inputs: ['hidden_states'],

  build({ g, weights, sizes: { contextWidth, imageWidth = 0 } }, inputs) {
    const states = inputOf(inputs, 'hidden_states');
    const wide = activation(g, linear(g, g.reshape(states, [-1, imageWidth]), weights.linear('proj.0')), 'gelu');
    const tokens = layerNorm(g, linear(g, wide, weights.linear('proj.2')), weights.norm('proj.3'), EPSILON);
    const places = g.op('Shape', [states], { start: 0, end: 2 });
    return g.op('Reshape', [tokens, g.op('Concat', [places, g.ints([contextWidth])], { axis: 0 })]);
  },
};
