/**
 * A vision model as ONNX: a small graph whose initializers are ranges of the user's own file.
 *
 * Precision: ComfyUI holds weights in fp16 whatever the file has, and computes in fp32. `comfy` therefore rounds fp32
 * and bf16 weights to fp16 and back, except those that ComfyUI keeps; `fp32` computes with the weights as stored.
 */
import { basename } from 'node:path';
import { ModelFormatError } from '../common/errors.js';
import { GraphBuilder, isOnnxDType, type Value } from '../onnx/index.js';
import type { OutputName } from './families/index.js';
import type { Build, WeightValues } from './families/family.js';
import type { ResolvedModel } from './model.js';

export type Precision = 'comfy' | 'fp32';

/** Name of the graph's main input: pixel values, f32 `[B, 3, H, W]`. */
export const PIXEL_VALUES = 'pixel_values';

/** Builds the whole encoder with these outputs, all of which the model has. */
export function buildVisionGraph(
  resolved: ResolvedModel,
  precision: Precision,
  outputs: readonly OutputName[],
): Uint8Array {
  const { model, family } = resolved;
  const { config } = model;
  const g = new GraphBuilder(model.family);
  const side = config.imageSize === -1 ? undefined : config.imageSize;
  const pixels = g.input(PIXEL_VALUES, 'F32', ['batch', 3, side ?? 'height', side ?? 'width']);
  const extra = family.extraInputs.map(({ name, shape }) => g.input(name, 'F32', shape));
  const batch = g.op('Shape', [pixels], { start: 0, end: 1 });
  const sequence = g.op('Concat', [batch, g.ints([family.tokens(config) ?? -1, config.hiddenSize])], { axis: 0 });
  const build: Build = { g, config, sequence, weights: weightValues(g, resolved, precision) };

  const states = [family.embed(build, pixels, extra)];
  for (let i = 0; i < config.layers; i += 1) states.push(family.layer(build, states[i] ?? pixels, i));
  const last = states.at(-1) ?? pixels;
  const all = outputs.includes('all_hidden_states') ? { all: states.slice(1) } : {};
  const values = family.head(build, { last, penultimate: states.at(-2) ?? last, ...all }, outputs);
  for (const output of outputs) {
    const value = values.get(output);
    if (value === undefined) throw new ModelFormatError('OUTPUT_UNAVAILABLE', `${model.family} has no ${output}.`);
    g.output(output, value, ['batch', ...family.outputShape(output, config)]);
  }
  return g.build();
}

function weightValues(g: GraphBuilder, { model, family, weights }: ResolvedModel, precision: Precision): WeightValues {
  const file = basename(model.path);
  const made = new Map<string, Value>();
  const make = (name: string): Value => {
    const range = weights.ranges.get(name);
    if (range === undefined || !isOnnxDType(range.dtype)) {
      throw new ModelFormatError('TENSOR_MISSING', `${file} has no usable tensor ${name}.`);
    }
    const stored = g.external(name, range.dtype, range.shape, {
      file,
      offset: range.offset,
      sizeBytes: range.sizeBytes,
    });
    if (range.dtype === 'F16') return g.cast(stored, 'F32');
    const isRounded = precision === 'comfy' && !family.keepsFullPrecision(name);
    if (isRounded) return g.cast(g.cast(stored, 'F16'), 'F32');
    return range.dtype === 'F32' ? stored : g.cast(stored, 'F32');
  };
  const value = (name: string): Value => {
    const known = made.get(name);
    if (known !== undefined) return known;
    const fresh = make(name);
    made.set(name, fresh);
    return fresh;
  };
  return {
    value,
    linear: (name, { bias } = { bias: true }) =>
      bias ? { weight: value(`${name}.weight`), bias: value(`${name}.bias`) } : { weight: value(`${name}.weight`) },
    norm: (name) => ({ weight: value(`${name}.weight`), bias: value(`${name}.bias`) }),
    isTransposed: (name) => weights.ranges.get(name)?.isTransposed === true,
  };
}
