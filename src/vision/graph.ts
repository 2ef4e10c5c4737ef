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
import type { WeightValues } from './families/family.js';
import type { ResolvedModel } from './model.js';

export type Precision = 'comfy' | 'fp32';

export interface VisionGraph {
  readonly bytes: Uint8Array;
  readonly outputs: readonly OutputName[];
}

/** Name of the graph's one input: pixel values, f32 `[B, 3, S, S]`. */
export const PIXEL_VALUES = 'pixel_values';

/** Builds the graph with these outputs, all of which the model has. */
export function buildVisionGraph(
  resolved: ResolvedModel,
  precision: Precision,
  outputs: readonly OutputName[],
): VisionGraph {
  const { model, family } = resolved;
  const { config } = model;
  const g = new GraphBuilder(model.family);
  const pixels = g.input(PIXEL_VALUES, 'F32', ['batch', 3, config.imageSize, config.imageSize]);
  const values = family.forward(g, pixels, weightValues(g, resolved, precision), config, { outputs });
  for (const output of outputs) {
    const value = values.get(output);
    if (value === undefined) throw new ModelFormatError('OUTPUT_UNAVAILABLE', `${model.family} has no ${output}.`);
    g.output(output, value, ['batch', ...family.outputShape(output, config)]);
  }
  return { bytes: g.build(), outputs };
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
