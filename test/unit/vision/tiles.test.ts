import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CLIPVisionEncoder } from '../../../src/index.js';
import { f32Tensor, u8Tensor, type U8Tensor } from '../../../src/tensor/tensor.js';
import type { VisionModel, VisionOutput } from '../../../src/vision/index.js';
import { encodeInTiles } from '../../../src/vision/tiles.js';
import { maxAbsDiff } from '../../support/compare.js';
import { startEngine, type TestEngine } from '../../support/inference.js';
import { TINY, writeTinyModel } from '../../support/tiny-model.js';

let folder = '';
let started: TestEngine;
let model: VisionModel;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-tiles-'));
  started = startEngine();
  await writeTinyModel(join(folder, 'tiny.safetensors'));
  model = await started.engine.open(join(folder, 'tiny.safetensors'));
});
afterAll(async () => {
  await started[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

const SIDE = TINY.imageSize;
const picture = (batch: number, height = SIDE * 2 + 3, width = SIDE * 3): U8Tensor =>
  u8Tensor(
    [batch, height, width, 3],
    Uint8Array.from({ length: batch * height * width * 3 }, (_none, i) => (i * 7919) % 253),
  );

describe('merging', () => {
  /** An encoder with a class token and 2 × 2 patches whose features are the first level of each quarter of a piece. */
  const quarters = (images: { readonly shape: readonly number[]; readonly data: ArrayLike<number> }): VisionOutput => {
    const [batch = 0, height = 0, width = 0] = images.shape;
    const at = (b: number, y: number, x: number): number => images.data[((b * height + y) * width + x) * 3] ?? NaN;
    const rows = Array.from({ length: batch }, (_none, b) => [
      at(b, 0, 0),
      at(b, 0, width / 2),
      at(b, height / 2, 0),
      at(b, height / 2, width / 2),
    ]);
    const states = rows.flatMap((patches) => [1000, ...patches]);
    return {
      lastHiddenState: f32Tensor([batch, 5, 1], Float32Array.from(states)),
      allHiddenStates: f32Tensor(
        [batch, 2, 5, 1],
        Float32Array.from(rows.flatMap((patches) => [7, ...patches, 9, ...patches.map((value) => -value)])),
      ),
      mmProjected: f32Tensor([batch, 4, 1], Float32Array.from(rows.flat())),
      imageEmbeds: f32Tensor([batch, 4], Float32Array.from(rows.flat())),
    };
  };
  // 4 × 4 cells; in 2 × 2 pieces each piece has 2 × 2, and a merged patch is the mean of one piece's own cells.
  const levels = Array.from({ length: 16 }, (_none, i) => i);
  const cells = u8Tensor([1, 4, 4, 3], Uint8Array.from(levels.flatMap((level) => [level, level, level])));
  const means = [2.5, 4.5, 10.5, 12.5];

  it('averages class tokens, and each n × n neighbours of the joined grid', async () => {
    const merged = await encodeInTiles((images) => Promise.resolve(quarters(images)), model, cells, {
      tiles: 2,
      ratio: undefined,
    });
    expect([...(merged.lastHiddenState?.data ?? [])]).toEqual([1000, ...means]);
    expect([...(merged.mmProjected?.data ?? [])]).toEqual(means);
    expect([...(merged.imageEmbeds?.data ?? [])]).toEqual(means);
    expect(merged.allHiddenStates?.shape).toEqual([1, 2, 5, 1]);
    expect([...(merged.allHiddenStates?.data ?? [])]).toEqual([7, ...means, 9, ...means.map((value) => -value)]);
  });

  it('with a ratio gives one picture two rows and several pictures one each', async () => {
    const encode = (images: Parameters<typeof quarters>[0]): Promise<VisionOutput> => Promise.resolve(quarters(images));
    const whole = [0, 2, 8, 10];
    const pair = await encodeInTiles(encode, model, cells, { tiles: 2, ratio: 0.25 });
    expect([...(pair.imageEmbeds?.data ?? [])]).toEqual([...whole.map((value) => value * 0.25), ...means]);
    const two = u8Tensor([2, 4, 4, 3], Uint8Array.from([...cells.data, ...cells.data]));
    const blended = await encodeInTiles(encode, model, two, { tiles: 2, ratio: 0.25 });
    const each = whole.map((value, i) => value * 0.25 + (means[i] ?? 0) * 0.75);
    expect([...(blended.imageEmbeds?.data ?? [])]).toEqual([...each, ...each]);
  });

  it('refuses features that form no square', async () => {
    const encode = (): Promise<VisionOutput> =>
      Promise.resolve({ imageEmbeds: f32Tensor([2, 768], new Float32Array(1536)) });
    await expect(encodeInTiles(encode, model, cells, { tiles: 2, ratio: undefined })).rejects.toMatchObject({
      code: 'OUTPUT_UNAVAILABLE',
      message: expect.stringContaining('768 values form no square') as string,
    });
  });
});

describe('encoding in tiles', () => {
  it('is encoding where there is one tile', async () => {
    const images = picture(1);
    const plain = await started.engine.encode(model, images);
    expect(await started.engine.encode(model, images, { tiles: 1 })).toEqual(plain);
  });

  it('gives pictures of a batch what it gives each alone, and files one by one what it gives the batch', async () => {
    const images = picture(2);
    const [, height = 0, width = 0] = images.shape;
    const length = images.data.length / 2;
    const batch = await started.engine.encode(model, images, { tiles: 2, tilesRatio: 0.3 });
    await using encoder = await CLIPVisionEncoder.fromPretrained(model.path, { featureStore: false });
    const inputs = [0, 1].map((i) => ({
      kind: 'u8-hwc' as const,
      data: images.data.slice(i * length, (i + 1) * length),
      shape: [height, width, 3] as const,
    }));
    const { output } = await encoder.encodeImagesBatch(inputs, { tiles: 2, tilesRatio: 0.3 });
    if (batch.imageEmbeds === undefined || batch.lastHiddenState === undefined) throw new Error('no features');
    expect(maxAbsDiff(output.imageEmbeds, batch.imageEmbeds)).toBeLessThan(1e-6);
    expect(maxAbsDiff(output.lastHiddenState, batch.lastHiddenState)).toBeLessThan(1e-5);
    const [first] = inputs;
    if (first === undefined) throw new Error('no input');
    const alone = await encoder.encodeImage(first, { tiles: 2 });
    const merged = await started.engine.encode(model, images, { tiles: 2 });
    expect(alone.output.imageEmbeds?.data).toEqual(merged.imageEmbeds?.data.slice(0, TINY.projectionDim));
  });

  it.each([
    [{ tiles: 0 }, /from 1 to 16, got 0/],
    [{ tiles: 17 }, /from 1 to 16, got 17/],
    [{ tiles: 1.5 }, /from 1 to 16/],
    [{ tiles: NaN }, /from 1 to 16/],
    [{ tiles: 2, tilesRatio: 2 }, /from 0 to 1, got 2/],
    [{ tiles: 2, tilesRatio: NaN }, /from 0 to 1/],
    [{ tilesRatio: 0.5 }, /needs tiles/],
  ])('refuses %j', async (options, message) => {
    await expect(started.engine.encode(model, picture(1), options)).rejects.toMatchObject({
      code: 'INVALID_REQUEST',
      message: expect.stringMatching(message) as string,
    });
  });

  it('refuses a picture with fewer pixels than tiles, and pixel values', async () => {
    await expect(started.engine.encode(model, picture(1, 3, 50), { tiles: 4 })).rejects.toThrow(/4×4 pieces/);
    const pixelValues = f32Tensor([1, 3, SIDE, SIDE], new Float32Array(3 * SIDE * SIDE));
    await expect(started.engine.encode(model, { pixelValues }, { tiles: 2 })).rejects.toThrow(/not from pixel values/);
  });

  it('stops when the caller gives up', async () => {
    const signal = AbortSignal.abort();
    await expect(started.engine.encode(model, picture(1), { tiles: 2, signal })).rejects.toMatchObject({
      code: 'CANCELLED',
    });
  });
});
