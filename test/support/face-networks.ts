/**
 * Small networks with the inputs and outputs of the ones that people have: a SCRFD detector that takes red squares for
 * faces (and blue ones for large faces), a recogniser that looks at colours, and one that estimates landmarks.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { GraphBuilder, type Value } from '../../src/onnx/index.js';
import { elementCount, f32Tensor, type U8Tensor } from '../../src/tensor/tensor.js';
import { seededRandom } from './random.js';

/** Half a side of a face's box, and places of its landmarks around its middle, in strides. */
const REACH = 2;
export const LANDMARKS = [-1, -1, 1, -1, 0, 0, -0.8, 1, 0.8, 1];
export const EMBEDDING_WIDTH = 512;

const NEVER = -100;
const STEEPNESS = 30;
/** Between the whole of a cell (1.99) and three quarters of it. */
const THRESHOLD = 1.6;

/** Red minus green decides at stride 16, blue minus green at stride 32; the second anchor never fires. */
const SIGNS: Readonly<Record<number, readonly [number, number, number] | undefined>> = {
  16: [1, -1, 0],
  32: [0, -1, 1],
};

export function detectorNetwork(): Uint8Array {
  const g = new GraphBuilder('detector');
  const picture = g.input('input.1', 'F32', ['batch', 3, 'height', 'width']);
  const strides = [8, 16, 32];
  const flat = (value: Value, columns: number): Value =>
    g.reshape(g.op('Transpose', [value], { perm: [0, 2, 3, 1] }), [-1, columns]);
  const convolve = (pooled: Value, weights: readonly number[], bias: readonly number[]): Value =>
    g.op('Conv', [
      pooled,
      g.constant(f32Tensor([bias.length, 3, 1, 1], Float32Array.from(weights))),
      g.constant(f32Tensor([bias.length], Float32Array.from(bias))),
    ]);
  const outputs: [string, Value, number][] = [];
  const heads = strides.map((stride) => {
    const pooled = g.op('AveragePool', [picture], { kernel_shape: [stride, stride], strides: [stride, stride] });
    const signs = SIGNS[stride];
    const weights = (signs ?? [0, 0, 0]).map((sign) => sign * STEEPNESS);
    const score = convolve(
      pooled,
      [...weights, 0, 0, 0],
      [signs === undefined ? NEVER : -STEEPNESS * THRESHOLD, NEVER],
    );
    const constants = (values: readonly number[]): Value =>
      convolve(pooled, Array<number>(values.length * 6).fill(0), [...values, ...values]);
    return {
      score: g.op('Sigmoid', [flat(score, 1)]),
      box: flat(constants(Array<number>(4).fill(REACH)), 4),
      points: flat(constants(LANDMARKS), 10),
    };
  });
  heads.forEach(({ score }, i) => outputs.push([`score_${i}`, score, 1]));
  heads.forEach(({ box }, i) => outputs.push([`bbox_${i}`, box, 4]));
  heads.forEach(({ points }, i) => outputs.push([`kps_${i}`, points, 10]));
  for (const [name, value, columns] of outputs) g.output(name, value, ['places', columns]);
  return g.build();
}

/** Mean colours of 4 × 4 fields, through a random matrix. */
export function recogniserNetwork(width = EMBEDDING_WIDTH): Uint8Array {
  const g = new GraphBuilder('recogniser');
  const picture = g.input('input.1', 'F32', ['batch', 3, 112, 112]);
  const fields = g.op('AveragePool', [picture], { kernel_shape: [28, 28], strides: [28, 28] });
  const random = seededRandom(5);
  const matrix = Float32Array.from({ length: 48 * width }, () => random() - 0.5);
  const product = g.op('MatMul', [g.reshape(fields, [-1, 48]), g.constant(f32Tensor([48, width], matrix))]);
  g.output('683', product, ['batch', width]);
  return g.build();
}

function landmarkNetwork(): Uint8Array {
  const g = new GraphBuilder('landmarks');
  const picture = g.input('data', 'F32', ['batch', 3, 192, 192]);
  const pooled = g.op('GlobalAveragePool', [picture]);
  g.output('fc1', g.reshape(pooled, [-1, 3]), ['batch', 3]);
  return g.build();
}

/** A pack as insightface unpacks it. */
export async function writeFacePack(folder: string, embeddingWidth = EMBEDDING_WIDTH): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, '1k3d68.onnx'), landmarkNetwork());
  await writeFile(join(folder, 'det_10g.onnx'), detectorNetwork());
  await writeFile(join(folder, 'w600k_r50.onnx'), recogniserNetwork(embeddingWidth));
}

export interface Square {
  readonly x: number;
  readonly y: number;
  readonly side: number;
  readonly color: readonly [number, number, number];
}

/** A black picture with squares. */
export function squares(width: number, height: number, list: readonly Square[]): U8Tensor {
  const shape = [1, height, width, 3];
  const data = new Uint8Array(elementCount(shape));
  for (const { x, y, side, color } of list) {
    for (let row = y; row < y + side; row += 1) {
      for (let column = x; column < x + side; column += 1) data.set(color, (row * width + column) * 3);
    }
  }
  return { dtype: 'U8', shape, data };
}
