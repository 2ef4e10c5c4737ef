/** An adapter as ONNX: small graphs whose initializers are ranges of the user's file. */
import { ModelFormatError } from '../common/errors.js';
import { GraphBuilder, linear, type GraphOptions, type Value } from '../onnx/index.js';
import { buildVersion2, type ProjectionInput } from './families/index.js';
import type { ResolvedAdapter } from './model.js';
import { weightValues, type MatrixSource } from './weight-values.js';

/** Name of the projection's output and of the layers' input: f32 `[B, T, C]`. */
export const TOKENS = 'tokens';
/** Name of FaceID-plus v2's further input, f32 `[1]`: the share of the resampler. */
export const SCALE = 'scale';

/** Names of a layer's outputs, f32 `[B, T, width of the block]`. */
export const keysName = (layer: number): string => `k.${layer}`;
export const valuesName = (layer: number): string => `v.${layer}`;

/**
 * The projection: features in, image prompt tokens out.
 *
 * @param options.rounded Matrices in another form than the file's.
 */
export function buildProjectionGraph(
  { model, family, sizes, keys }: ResolvedAdapter,
  { rounded, ...options }: GraphOptions & { readonly rounded?: MatrixSource } = {},
): Uint8Array {
  const g = new GraphBuilder(model.label, options);
  const shapes: Readonly<Record<ProjectionInput, readonly (number | string)[]>> = {
    image_embeds: ['batch', sizes.imageWidth ?? 0],
    hidden_states: ['batch', 'length', sizes.imageWidth ?? 0],
    face: ['batch', 1, sizes.faceWidth ?? 0],
  };
  const inputs = new Map<ProjectionInput, Value>(
    family.inputs.map((name) => [name, g.input(name, 'F32', shapes[name])]),
  );
  const build = { g, sizes, weights: weightValues(g, model.path, keys.projection, rounded) };
  const face = inputs.get('face');
  const states = inputs.get('hidden_states');
  const tokens =
    model.variant === 'faceid_plus_v2' && face !== undefined && states !== undefined
      ? buildVersion2(build, face, states, g.input(SCALE, 'F32', [1]))
      : family.build(build, inputs);
  g.output(TOKENS, tokens, ['batch', sizes.tokens ?? 'length', sizes.contextWidth]);
  return g.build();
}

/** Keys and values of some layers, of image prompt tokens. */
export function buildLayersGraph({ model, keys }: ResolvedAdapter, layers: readonly number[]): Uint8Array {
  const g = new GraphBuilder(`${model.label} layers`);
  const tokens = g.input(TOKENS, 'F32', ['batch', 'tokens', model.contextWidth]);
  const weights = weightValues(g, model.path, keys.attention);
  const flat = g.reshape(tokens, [-1, model.contextWidth]);
  const places = g.op('Shape', [tokens], { start: 0, end: 2 });
  for (const layer of layers) {
    const width = keys.attention.get(`${layer}.to_k_ip.weight`)?.shape[0];
    if (width === undefined) {
      throw new ModelFormatError(
        'OUTPUT_UNAVAILABLE',
        `${model.label} has no layer ${layer}; it has ${model.layers.join(', ')}.`,
        { details: { layer, layers: model.layers } },
      );
    }
    const shape = g.op('Concat', [places, g.ints([width])], { axis: 0 });
    for (const [output, name] of [
      [keysName(layer), 'to_k_ip'],
      [valuesName(layer), 'to_v_ip'],
    ] as const) {
      const projected = linear(g, flat, { weight: weights.value(`${layer}.${name}.weight`) });
      g.output(output, g.op('Reshape', [projected, shape]), ['batch', 'tokens', width]);
    }
  }
  return g.build();
}
