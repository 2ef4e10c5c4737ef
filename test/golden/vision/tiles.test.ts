/**
 * Features of pictures in pieces against what IPAdapter_plus merged. Format: golden README, "ipadapter/": tolerance 1e-2
 * and a cosine distance of 1e-6, since pieces are resampled and may differ by rounding ties.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { parseSafetensors } from '../../../src/formats/index.js';
import { f32Tensor, type F32Tensor } from '../../../src/tensor/tensor.js';
import { OUTPUT_FIELDS, type OutputName } from '../../../src/vision/index.js';
import { cosineDistance, maxAbsDiff } from '../../support/compare.js';
import { startEngine } from '../../support/inference.js';
import { goldenAdapterRoot } from './golden-folder.js';

const { tensors } = parseSafetensors(
  readFileSync(join(goldenAdapterRoot, 'ipadapter', 'expected', 'tiles.safetensors')),
);
const started = startEngine();
afterAll(() => started[Symbol.asyncDispose]());

const cases = [...tensors.keys()].flatMap((key) => {
  const match = /^(\w+)\.tiles(\d+)\.ratio([\d.]+)\.(\w+)$/.exec(key);
  const [, group = '', tiles, ratio, output = ''] = match ?? [];
  return match === null
    ? []
    : [{ key, group, tiles: Number(tiles), ratio: Number(ratio), output: output as OutputName }];
});

const open = (): ReturnType<typeof started.engine.open> =>
  started.engine.open(join(goldenAdapterRoot, 'models', 'clip-h-tiny.safetensors'));

describe('pictures in tiles', () => {
  it.each(cases)('equal IPAdapter_plus: $key', async ({ key, group, tiles, ratio, output }) => {
    const images = tensors.get(`${group}.image_u8`);
    const expected = tensors.get(key);
    if (images?.dtype !== 'U8' || expected?.dtype !== 'F32') throw new Error(key);
    const got = await started.engine.encode(await open(), images, {
      tiles,
      tilesRatio: ratio,
      outputs: [output],
      precision: 'fp32',
    });
    const features = got[OUTPUT_FIELDS[output]];
    expect(maxAbsDiff(features, expected)).toBeLessThan(1e-2);
    expect(cosineDistance(features?.data ?? new Float32Array(0), expected.data)).toBeLessThan(1e-6);
  });

  it('alone are the second row of a single picture with a ratio', async () => {
    const images = tensors.get('b1.image_u8');
    const pair = tensors.get('b1.tiles2.ratio0.6.penultimate_hidden_states');
    if (images?.dtype !== 'U8' || pair?.dtype !== 'F32') throw new Error('no case');
    const { penultimateHiddenStates } = await started.engine.encode(await open(), images, {
      tiles: 2,
      precision: 'fp32',
    });
    expect(maxAbsDiff(penultimateHiddenStates, row(pair, 1))).toBeLessThan(1e-2);
  });
});

function row({ shape, data }: F32Tensor, index: number): F32Tensor {
  const length = data.length / (shape[0] ?? 1);
  return f32Tensor([1, ...shape.slice(1)], data.slice(index * length, (index + 1) * length));
}
