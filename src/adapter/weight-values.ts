/** Weights of an adapter as f32 values of a graph: ranges of the user's own file. */
import { basename } from 'node:path';
import { ModelFormatError } from '../common/errors.js';
import type { TensorInfo } from '../formats/index.js';
import { isOnnxDType, type GraphBuilder, type LinearWeights, type Value } from '../onnx/index.js';

export interface WeightValues {
  value(name: string): Value;
  linear(name: string): LinearWeights;
  /** A linear layer without a bias, by the whole name of its weights. */
  matrix(name: string): LinearWeights;
  norm(name: string): { weight: Value; bias: Value };
  /** The first and the second half of a matrix's rows, as layers of their own. */
  halves(name: string): readonly [LinearWeights, LinearWeights];
}

/** Gives matrices in another form than the file's; undefined for those that stay as they are. */
export type MatrixSource = (g: GraphBuilder, name: string) => LinearWeights | undefined;

/** @param path Real path of the file; tensors may lie in others of its folder. */
export function weightValues(
  g: GraphBuilder,
  path: string,
  tensors: ReadonlyMap<string, TensorInfo>,
  rounded: MatrixSource = () => undefined,
): WeightValues {
  const find = (name: string): TensorInfo => {
    const info = tensors.get(name);
    if (info === undefined)
      throw new ModelFormatError('TENSOR_MISSING', `${basename(path)} has no tensor ${name}.`, {
        details: { path, tensor: name },
      });
    return info;
  };
  const load = (key: string, { name, dtype, file = basename(path), ...range }: TensorInfo): Value =>
    g.once(`weight ${key}`, () => {
      if (!isOnnxDType(dtype)) throw new ModelFormatError('TENSOR_INVALID', `${name} is stored as ${dtype}.`);
      const { shape, offset, sizeBytes } = range;
      const stored = g.external(key, dtype, shape, { file, offset, sizeBytes });
      return dtype === 'F32' ? stored : g.cast(stored, 'F32');
    });
  const value = (name: string): Value => load(name, find(name));
  return {
    value,
    linear: (name) => ({ weight: value(`${name}.weight`), bias: value(`${name}.bias`) }),
    matrix: (name) => rounded(g, name) ?? { weight: value(name) },
    norm: (name) => ({ weight: value(`${name}.weight`), bias: value(`${name}.bias`) }),
    halves(name) {
      const info = find(name);
      const [rows = 0, ...rest] = info.shape;
      const half = { ...info, shape: [rows / 2, ...rest], sizeBytes: info.sizeBytes / 2 };
      const second = { ...half, offset: info.offset + half.sizeBytes };
      return [
        rounded(g, `${name} first`) ?? { weight: load(`${name} first`, half) },
        rounded(g, `${name} second`) ?? { weight: load(`${name} second`, second) },
      ];
    },
  };
}
