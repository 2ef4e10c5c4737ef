/** Tensors of golden safetensors files. */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { parseSafetensors } from '../../src/formats/index.js';
import type { F32Tensor, Tensor, U8Tensor } from '../../src/tensor/tensor.js';

export function readGoldenTensors(path: string): ReadonlyMap<string, Tensor> {
  return parseSafetensors(readFileSync(path), basename(path)).tensors;
}

/** @throws {Error} when there is no such f32 tensor: a test must not pass for want of an expectation. */
export function f32Of(tensors: ReadonlyMap<string, Tensor>, name: string): F32Tensor {
  const tensor = tensors.get(name);
  if (tensor?.dtype !== 'F32') throw new Error(`there is no f32 tensor ${name}`);
  return tensor;
}

export function u8Of(tensors: ReadonlyMap<string, Tensor>, name: string): U8Tensor {
  const tensor = tensors.get(name);
  if (tensor?.dtype !== 'U8') throw new Error(`there is no u8 tensor ${name}`);
  return tensor;
}
