/** Shapes and sizes that image nodes share. */
import { PythonError, type NodeDefinition } from '../graph/index.js';
import { inSlices } from '../image/index.js';
import { f32Tensor, type F32Tensor, type Shape } from '../tensor/tensor.js';

/** ComfyUI's largest side of a picture. */
const MAX_RESOLUTION = 16384;

/** A side of a picture in pixels, as ComfyUI offers it. */
export function sideInput(name: string, min: 0 | 1): NodeDefinition['inputs'][number] {
  return { name, type: 'INT', options: { default: 512, min, max: MAX_RESOLUTION, step: 1 } };
}

/** Batch, height, width and channels of an IMAGE. */
export function imageSize({ shape }: F32Tensor): { batch: number; height: number; width: number; channels: number } {
  const [batch = 0, height = 0, width = 0, channels = 0] = shape;
  return { batch, height, width, channels };
}

/** A tensor made value by value, in steps that leave the server's thread free. */
export async function tensorOf(
  shape: Shape,
  valueAt: (index: number) => number,
  signal: AbortSignal,
): Promise<F32Tensor> {
  const out = new Float32Array(shape.reduce((product, side) => product * side, 1));
  await inSlices(
    out.length,
    1,
    (begin, end) => {
      for (let i = begin; i < end; i += 1) out[i] = valueAt(i);
    },
    signal,
  );
  return f32Tensor(shape, out);
}

/** Pictures after one another. @throws {PythonError} when their channels differ, as PyTorch has it. */
export function joinBatches(first: F32Tensor, second: F32Tensor): F32Tensor {
  const a = imageSize(first);
  const b = imageSize(second);
  if (a.channels !== b.channels)
    throw new PythonError(
      'RuntimeError',
      `Sizes of tensors must match except in dimension 0. Expected size ${a.channels} but got size ${b.channels} for tensor number 1 in the list.`,
    );
  const data = new Float32Array(first.data.length + second.data.length);
  data.set(first.data);
  data.set(second.data, first.data.length);
  return f32Tensor([a.batch + b.batch, a.height, a.width, a.channels], data);
}
