/**
 * The Perceiver resampler of plus, plus-face, composition, Kolors and portrait-unnorm: a fixed number of learnt queries
 * reads the encoder's hidden states.
 *
 * Heads are always 64 wide, layers have no biases, and the hidden states stay as they are from layer to layer.
 */
import { ModelFormatError } from '../../common/errors.js';
import type { TensorInfo } from '../../formats/index.js';
import { activation, attention, expandToBatch, layerNorm, linear, type Value } from '../../onnx/index.js';
import type { Shape } from '../../tensor/tensor.js';
import {
  EPSILON,
  inputOf,
  linearShapes,
  normShapes,
  shapeOf,
  type AdapterFamily,
  type ProjectionBuild,
  type ResamplerSizes,
} from './family.js';

const HEAD_WIDTH = 64;
/** Published files have four; the bound keeps a hostile file's graph small. */
const MAX_DEPTH = 64;

export const resampler: AdapterFamily = {
  projector: 'resampler',
  matches: (keys) => keys.has('latents'),

  sizes(keys) {
    const [, tokens = 0] = shapeOf(keys, 'latents', 3);
    const { imageWidth, contextWidth, ...sizes } = resamplerSizes(keys, '');
    return { tokens, contextWidth, innerWidth: sizes.width, imageWidth, resampler: sizes };
  },

  needs: ({ tokens = 0, contextWidth, imageWidth = 0, resampler: sizes }) =>
    new Map([
      ['latents', [1, tokens, sizes?.width ?? 0]],
      ...(sizes === undefined ? [] : resamplerShapes('', sizes, imageWidth, contextWidth)),
    ]),

  inputs: ['hidden_states'],

  build(build, inputs) {
    const { g, weights, sizes } = build;
    const states = inputOf(inputs, 'hidden_states');
    const queries = expandToBatch(g, weights.value('latents'), states, sizes.tokens ?? 0, sizes.innerWidth);
    return resample(build, '', states, queries);
  },
};

interface OuterSizes extends ResamplerSizes {
  readonly imageWidth: number;
  readonly contextWidth: number;
}

/** Sizes of a resampler whose names begin with `prefix`. */
export function resamplerSizes(keys: ReadonlyMap<string, TensorInfo>, prefix: string): OuterSizes {
  const [width = 0, imageWidth = 0] = shapeOf(keys, `${prefix}proj_in.weight`, 2);
  const [contextWidth = 0] = shapeOf(keys, `${prefix}proj_out.weight`, 2);
  const [rows = 0] = shapeOf(keys, `${prefix}layers.0.0.to_q.weight`, 2);
  const [hiddenWidth = 0] = shapeOf(keys, `${prefix}layers.0.1.1.weight`, 2);
  if (rows % HEAD_WIDTH !== 0) {
    throw new ModelFormatError(
      'TENSOR_INVALID',
      `${prefix}layers.0.0.to_q.weight has ${rows} rows, which are no whole heads of ${HEAD_WIDTH}.`,
    );
  }
  const depth = depthOf(keys, prefix);
  return { width, imageWidth, contextWidth, heads: rows / HEAD_WIDTH, depth, hiddenWidth };
}

/** By the highest number that any tensor has: a layer with a hole in it is found missing later, not left out. */
function depthOf(keys: ReadonlyMap<string, TensorInfo>, prefix: string): number {
  const start = `${prefix}layers.`;
  let depth = 0;
  for (const name of keys.keys()) {
    if (!name.startsWith(start)) continue;
    const index = Number(/^\d{1,9}(?=\.)/.exec(name.slice(start.length))?.[0] ?? NaN);
    if (index >= MAX_DEPTH)
      throw new ModelFormatError('TENSOR_INVALID', `${name} would be layer ${index}; at most ${MAX_DEPTH} are taken.`);
    if (index >= depth) depth = index + 1;
  }
  return depth;
}

export function resamplerShapes(
  prefix: string,
  { width, heads, depth, hiddenWidth }: ResamplerSizes,
  imageWidth: number,
  contextWidth: number,
): [string, Shape][] {
  const mixed = heads * HEAD_WIDTH;
  const layers = Array.from({ length: depth }, (_none, i): [string, Shape][] => {
    const layer = `${prefix}layers.${i}`;
    return [
      ...normShapes(`${layer}.0.norm1`, width),
      ...normShapes(`${layer}.0.norm2`, width),
      [`${layer}.0.to_q.weight`, [mixed, width]],
      [`${layer}.0.to_kv.weight`, [2 * mixed, width]],
      [`${layer}.0.to_out.weight`, [width, mixed]],
      ...normShapes(`${layer}.1.0`, width),
      [`${layer}.1.1.weight`, [hiddenWidth, width]],
      [`${layer}.1.3.weight`, [width, hiddenWidth]],
    ];
  });
  return [
    ...linearShapes(`${prefix}proj_in`, width, imageWidth),
    ...layers.flat(),
    ...linearShapes(`${prefix}proj_out`, contextWidth, width),
    ...normShapes(`${prefix}norm_out`, contextWidth),
  ];
}

/** Tokens `[B, T, C]` of hidden states `[B, N, D]`, read by queries `[B, T, width]`. */
export function resample(build: ProjectionBuild, prefix: string, states: Value, queries: Value): Value {
  const { g, weights, sizes } = build;
  const { resampler: inner, imageWidth = 0, tokens = 0, contextWidth } = sizes;
  if (inner === undefined) throw new RangeError('the projection has no resampler');
  const { width, heads, depth } = inner;
  const mixed = heads * HEAD_WIDTH;
  const batch = g.op('Shape', [states], { start: 0, end: 1 });
  const sequence = (columns: number): Value => g.op('Concat', [batch, g.ints([-1, columns])], { axis: 0 });
  const asSequence = (flat: Value, columns: number): Value => g.op('Reshape', [flat, sequence(columns)]);

  const x = linear(g, g.reshape(states, [-1, imageWidth]), weights.linear(`${prefix}proj_in`));
  let z = g.reshape(queries, [-1, width]);
  for (let i = 0; i < depth; i += 1) {
    const layer = `${prefix}layers.${i}`;
    const xNormed = layerNorm(g, x, weights.norm(`${layer}.0.norm1`), EPSILON);
    const zNormed = layerNorm(g, z, weights.norm(`${layer}.0.norm2`), EPSILON);
    const both = g.op('Concat', [asSequence(xNormed, width), asSequence(zNormed, width)], { axis: 1 });
    const read = g.reshape(both, [-1, width]);
    const q = linear(g, zNormed, weights.matrix(`${layer}.0.to_q.weight`));
    // The first half of the rows makes keys, the second values.
    const [k, v] = weights.halves(`${layer}.0.to_kv.weight`).map((half) => linear(g, read, half)) as [Value, Value];
    const found = attention(g, asSequence(q, mixed), asSequence(k, mixed), asSequence(v, mixed), heads, mixed / heads);
    const output = linear(g, g.reshape(found, [-1, mixed]), weights.matrix(`${layer}.0.to_out.weight`));
    z = g.op('Add', [z, output]);
    const normed = layerNorm(g, z, weights.norm(`${layer}.1.0`), EPSILON);
    const wide = activation(g, linear(g, normed, weights.matrix(`${layer}.1.1.weight`)), 'gelu');
    z = g.op('Add', [z, linear(g, wide, weights.matrix(`${layer}.1.3.weight`))]);
  }
  const projected = linear(g, z, weights.linear(`${prefix}proj_out`));
  return g.reshape(layerNorm(g, projected, weights.norm(`${prefix}norm_out`), EPSILON), [-1, tokens, contextWidth]);
}
