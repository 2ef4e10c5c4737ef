/** Values of inputs, from unknown to typed. Validation matches the types of links; a literal in the place of a link is anything. */
import { PythonError, type NodeInputs } from '../graph/index.js';
import type { F32Tensor } from '../tensor/tensor.js';
import { OUTPUT_FIELDS, type VisionModel, type VisionOutput } from '../vision/index.js';

export function textInput(inputs: NodeInputs, name: string): string {
  const value = inputs[name];
  if (typeof value !== 'string') throw wrong(name, 'a text');
  return value;
}

/** INT or FLOAT; integers beyond 2^53 lose their last digits here. */
export function numberInput(inputs: NodeInputs, name: string): number {
  const value = inputs[name];
  if (typeof value !== 'number' && typeof value !== 'bigint') throw wrong(name, 'a number');
  return Number(value);
}

/** One of some words, which validation has checked; a linked value may still be another. */
export function choiceInput<T extends string>(inputs: NodeInputs, name: string, choices: readonly T[]): T {
  const value = inputs[name];
  const found = choices.find((choice) => choice === value);
  if (found === undefined) throw new PythonError('ValueError', `${name} is not one of ${choices.join(', ')}.`);
  return found;
}

/** BOOLEAN; absent optional inputs take the default. */
export function flagInput(inputs: NodeInputs, name: string, preset: boolean): boolean {
  const value = inputs[name];
  return value === undefined ? preset : Boolean(value);
}

/** MASK: f32 `[B, H, W]`. */
export function maskInput(inputs: NodeInputs, name: string): F32Tensor {
  const value = inputs[name];
  if (!isObject(value) || value['dtype'] !== 'F32' || !Array.isArray(value['shape']) || value['shape'].length < 2)
    throw wrong(name, 'a MASK');
  return value as unknown as F32Tensor;
}

export function imageInput(inputs: NodeInputs, name: string): F32Tensor {
  const value = inputs[name];
  if (!isObject(value) || value['dtype'] !== 'F32' || !Array.isArray(value['shape']) || value['shape'].length !== 4)
    throw wrong(name, 'an IMAGE');
  return value as unknown as F32Tensor;
}

export function visionModelInput(inputs: NodeInputs, name: string): VisionModel {
  const value = inputs[name];
  if (!isObject(value) || !('family' in value)) throw wrong(name, 'a CLIP_VISION');
  return value as unknown as VisionModel;
}

/** Features of which any may be missing. */
export function featuresInput(inputs: NodeInputs, name: string): VisionOutput {
  const value = inputs[name];
  if (!isObject(value) || Object.values(OUTPUT_FIELDS).every((field) => !(field in value)))
    throw wrong(name, 'a CLIP_VISION_OUTPUT');
  return value;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

function wrong(name: string, wanted: string): PythonError {
  return new PythonError('TypeError', `The input ${name} is not ${wanted}.`);
}
