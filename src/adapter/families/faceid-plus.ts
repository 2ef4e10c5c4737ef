/**
 * FaceID-plus: the tokens of a face's embedding are the queries of a resampler over the encoder's hidden states of the
 * aligned face. The second version adds the tokens themselves to what the resampler gives.
 */
import { ModelFormatError } from '../../common/errors.js';
import { faceShapes, faceSizes, faceTokens } from './faceid.js';
import { inputOf, type AdapterFamily, type ProjectionBuild } from './family.js';
import { resample, resamplerShapes, resamplerSizes } from './resampler.js';
import type { Value } from '../../onnx/index.js';

const PREFIX = 'perceiver_resampler.';

export const faceidPlus: AdapterFamily = {
  projector: 'faceid-plus',
  matches: (keys) => keys.has(`${PREFIX}proj_in.weight`),

  sizes(keys) {
    const { tokens, width, faceWidth, hiddenWidth } = faceSizes(keys);
    const { imageWidth, contextWidth, ...inner } = resamplerSizes(keys, PREFIX);
    if (width !== inner.width || width !== contextWidth) {
      throw new ModelFormatError(
        'TENSOR_INVALID',
        `The tokens of the face are ${width} wide, but its resampler works ${inner.width} wide and gives ${contextWidth}.`,
      );
    }
    return { tokens, contextWidth, innerWidth: width, imageWidth, faceWidth, hiddenWidth, resampler: inner };
  },

  needs(sizes) {
    const { resampler: inner, imageWidth = 0, contextWidth } = sizes;
    const shapes = inner === undefined ? [] : resamplerShapes(PREFIX, inner, imageWidth, contextWidth);
    return new Map([...faceShapes(sizes), ...shapes]);
  },

  inputs: ['face', 'hidden_states'],

  build: (build, inputs) =>
    resample(build, PREFIX, inputOf(inputs, 'hidden_states'), faceTokens(build, inputOf(inputs, 'face'))),
};

/** The second version: the face's tokens, and the resampler's times `scale` (f32 `[1]`). */
export function buildVersion2(build: ProjectionBuild, face: Value, states: Value, scale: Value): Value {
  const { g } = build;
  const tokens = faceTokens(build, face);
  return g.op('Add', [tokens, g.op('Mul', [resample(build, PREFIX, states, tokens), scale])]);
}
