/**
 * Weights of a model as values of a graph: ranges of the user's own file, or of a quantised one.
 *
 * ComfyUI holds weights in fp16 whatever the file has, and computes in fp32. `comfy` therefore rounds fp32 and bf16
 * weights to fp16 and back, except those that ComfyUI keeps; `fp32` computes with the weights as stored.
 */
import { basename } from 'node:path';
import { ModelFormatError } from '../common/errors.js';
import type { ModelHeader, TensorInfo } from '../formats/index.js';
import { isOnnxDType, type GraphBuilder, type LinearWeights, type Value } from '../onnx/index.js';
import type { WeightValues } from './families/family.js';
import type { ResolvedModel } from './model.js';

/** How weights become numbers; `int8` takes a file made by quantization/. */
export type Precision = 'comfy' | 'fp32' | 'int8';

/** The weights of the user's file. */
export function storedWeights(
  g: GraphBuilder,
  { model, family, weights }: ResolvedModel,
  precision: Exclude<Precision, 'int8'>,
): WeightValues {
  const make = (name: string): Value => {
    const range = weights.ranges.get(name);
    if (range === undefined || !isOnnxDType(range.dtype)) throw missing(model.path, name);
    const file = range.file ?? basename(model.path);
    const { offset, sizeBytes } = range;
    const stored = g.external(name, range.dtype, range.shape, { file, offset, sizeBytes });
    // 8-bit floats fit a half float exactly: there is nothing to round.
    if (range.dtype !== 'F32' && range.dtype !== 'BF16') return g.cast(stored, 'F32');
    const isRounded = precision === 'comfy' && !family.keepsFullPrecision(name);
    if (isRounded) return g.cast(g.cast(stored, 'F16'), 'F32');
    return range.dtype === 'F32' ? stored : g.cast(stored, 'F32');
  };
  const value = (name: string): Value => g.once(`weight ${name}`, () => make(name));
  return {
    value,
    linear: (name, { bias } = { bias: true }) => ({
      weight: value(`${name}.weight`),
      ...(bias ? { bias: value(`${name}.bias`) } : {}),
    }),
    norm: (name) => ({ weight: value(`${name}.weight`), bias: value(`${name}.bias`) }),
    isTransposed: (name) => weights.ranges.get(name)?.isTransposed === true,
  };
}

/** Names of what a quantised file has beside a linear layer's weight and bias, and beside a norm. */
export const QUANTIZED = {
  scale: (linear: string) => `${linear}.weight_scale`,
  low: (linear: string) => `${linear}.weight_low`,
  outlierWeight: (linear: string) => `${linear}.outlier_weight`,
  outlierIndex: (linear: string) => `${linear}.outlier_index`,
} as const;

/** The weights of a quantised file, named as in Hugging Face's layout. */
export function quantizedWeights(g: GraphBuilder, resolved: ResolvedModel, quantized: ModelHeader): WeightValues {
  const { model, family, weights } = resolved;
  const file = basename(quantized.path);
  const floors = new Map(family.quantization(model.config).others.map(({ name, inputFloor }) => [name, inputFloor]));
  const raw = ({ name, dtype, shape, offset, sizeBytes }: TensorInfo): Value => {
    if (!isOnnxDType(dtype)) throw missing(quantized.path, name);
    return g.external(name, dtype, shape, { file, offset, sizeBytes });
  };
  const stored = (name: string): Value => {
    const info = quantized.tensors.get(name);
    if (info === undefined) throw missing(quantized.path, name);
    return raw(info);
  };
  const optional = (name: string): Value | undefined => (quantized.tensors.has(name) ? stored(name) : undefined);
  const value = (name: string): Value => {
    if (quantized.tensors.get(name)?.dtype === 'F32') return stored(name);
    return g.once(`weight ${name}`, () => g.cast(stored(name), 'F32'));
  };
  const int8 = (name: string): LinearWeights['int8'] => {
    const low = optional(QUANTIZED.low(name));
    const index = optional(QUANTIZED.outlierIndex(name));
    const inputFloor = low === undefined ? floors.get(name) : undefined;
    return {
      scale: stored(QUANTIZED.scale(name)),
      ...(low === undefined ? {} : { low }),
      ...(inputFloor === undefined ? {} : { inputFloor }),
      ...(index === undefined ? {} : { outliers: { index, weight: stored(QUANTIZED.outlierWeight(name)) } }),
    };
  };
  return {
    value,
    linear(name) {
      // A layer without a bias of its own may have one all the same: the share of an input's shift.
      const bias = quantized.tensors.has(`${name}.bias`) ? { bias: value(`${name}.bias`) } : {};
      if (!quantized.tensors.has(QUANTIZED.scale(name))) return { weight: value(`${name}.weight`), ...bias };
      const options = int8(name);
      return { weight: stored(`${name}.weight`), ...bias, ...(options === undefined ? {} : { int8: options }) };
    },
    norm: (name) => ({ weight: value(`${name}.weight`), bias: value(`${name}.bias`) }),
    isTransposed: (name) => weights.ranges.get(name)?.isTransposed === true,
  };
}

function missing(path: string, name: string): ModelFormatError {
  return new ModelFormatError('TENSOR_MISSING', `${basename(path)} has no usable tensor ${name}.`, {
    details: { path, tensor: name },
  });
}
