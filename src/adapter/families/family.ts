/** What a projection kind is: how its tensors are known, which sizes their shapes give, and its forward pass as a graph. */
import { ModelFormatError } from '../../common/errors.js';
import type { TensorInfo } from '../../formats/index.js';
import type { GraphBuilder, Value } from '../../onnx/index.js';
import type { Shape } from '../../tensor/tensor.js';
import type { WeightValues } from '../weight-values.js';

/** Names of the projection kinds. */
export type Projector = 'base' | 'full' | 'faceid' | 'resampler' | 'faceid-plus';

/** Inputs of a projection, by the name that its graph has for them. */
export type ProjectionInput = 'image_embeds' | 'hidden_states' | 'face';

/** Sizes of a projection; all of them are read from shapes. */
export interface ProjectionSizes {
  /** Image prompt tokens that one picture gives; undefined where it is as many as the encoder's. */
  readonly tokens: number | undefined;
  /** Width of a token: that of the text context. */
  readonly contextWidth: number;
  /** Width inside the projection. */
  readonly innerWidth: number;
  /** Width of the image embeds or hidden states; absent where only faces go in. */
  readonly imageWidth?: number;
  /** Width of the face embedding; absent where only pictures go in. */
  readonly faceWidth?: number;
  /** Hidden width of a two-layer projection. */
  readonly hiddenWidth?: number;
  readonly resampler?: ResamplerSizes;
}

export interface ResamplerSizes {
  readonly width: number;
  readonly heads: number;
  readonly depth: number;
  readonly hiddenWidth: number;
}

export interface ProjectionBuild {
  readonly g: GraphBuilder;
  readonly weights: WeightValues;
  readonly sizes: ProjectionSizes;
}

export interface AdapterFamily {
  readonly projector: Projector;
  matches(keys: ReadonlyMap<string, TensorInfo>): boolean;
  /** @throws {ModelFormatError} `TENSOR_MISSING`, `TENSOR_INVALID` */
  sizes(keys: ReadonlyMap<string, TensorInfo>): ProjectionSizes;
  /** Every tensor that the forward pass reads, with its shape. */
  needs(sizes: ProjectionSizes): ReadonlyMap<string, Shape>;
  readonly inputs: readonly ProjectionInput[];
  /** Tokens `[B, T, C]`; inputs are `image_embeds` `[B, E]`, `hidden_states` `[B, N, D]`, `face` `[B, 1, F]`. */
  build(build: ProjectionBuild, inputs: ReadonlyMap<ProjectionInput, Value>): Value;
}

/** Epsilon of every layer norm in every published adapter. */
export const EPSILON = 1e-5;

/** Shape of a tensor that must be there and have this many dimensions. */
export function shapeOf(keys: ReadonlyMap<string, TensorInfo>, name: string, rank: number): Shape {
  const info = keys.get(name);
  if (info === undefined) {
    throw new ModelFormatError('TENSOR_MISSING', `The projection lacks ${name}: is it a partial or converted file?`, {
      details: { tensor: name },
    });
  }
  if (info.shape.length !== rank || info.shape.includes(0)) {
    throw new ModelFormatError(
      'TENSOR_INVALID',
      `${name} has the shape [${info.shape.join(', ')}]; ${rank} dimensions are needed.`,
      { details: { tensor: name, shape: info.shape } },
    );
  }
  return info.shape;
}

/** How many times a norm's width goes into the rows of the layer before it. */
export function tokenCount(rows: number, width: number, name: string): number {
  if (rows % width !== 0) {
    throw new ModelFormatError('TENSOR_INVALID', `${name} has ${rows} rows, which are no whole tokens of ${width}.`, {
      details: { tensor: name },
    });
  }
  return rows / width;
}

export function inputOf(inputs: ReadonlyMap<ProjectionInput, Value>, name: ProjectionInput): Value {
  const value = inputs.get(name);
  if (value === undefined) throw new RangeError(`the projection has no input ${name}`);
  return value;
}

export const linearShapes = (name: string, out: number, input: number): [string, Shape][] => [
  [`${name}.weight`, [out, input]],
  [`${name}.bias`, [out]],
];

export const normShapes = (name: string, width: number): [string, Shape][] => [
  [`${name}.weight`, [width]],
  [`${name}.bias`, [width]],
];
