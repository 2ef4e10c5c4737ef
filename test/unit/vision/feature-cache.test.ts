import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { FeatureStoreStats } from '../../../src/store/index.js';
import { f32Tensor, u8Tensor, type U8Tensor } from '../../../src/tensor/tensor.js';
import { FeatureCache } from '../../../src/vision/feature-cache.js';
import type { VisionModel, VisionOutput } from '../../../src/vision/index.js';
import { startEngine, type TestEngine } from '../../support/inference.js';
import { writeTinyModel } from '../../support/tiny-model.js';

let folder = '';
const pathOf = (name: string): string => join(folder, `${name}.safetensors`);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-cache-'));
  await writeTinyModel(pathOf('one'), 1);
  await writeTinyModel(pathOf('one-again'), 1);
  await writeTinyModel(pathOf('two'), 2);
});
afterAll(() => rm(folder, { recursive: true }));

it('hands out memory again only when what is in it was kept', async () => {
  const kept = new Map<string, Uint8Array>();
  const memories = new Set<ArrayBufferLike>();
  const cache = new FeatureCache({
    get: (key) => kept.get(key),
    has: (key) => kept.has(key),
    // A store that copies late.
    async put(key, value) {
      memories.add(value.buffer);
      await setTimeout(5);
      kept.set(key, value.slice());
    },
  });
  const source = { weights: 'w', precision: 'fp32', device: 'cpu' };
  const put = (name: string, value: number): Promise<void> =>
    cache.put(source, name, 'image_embeds', f32Tensor([4], new Float32Array(4).fill(value)));
  await Promise.all([put('a', 1), put('b', 2)]);
  await put('c', 3);
  const got = ['a', 'b', 'c'].map((name) => cache.get(source, name, ['image_embeds'])?.get('image_embeds')?.data[3]);
  expect(got).toEqual([1, 2, 3]);
  expect(memories.size).toBe(2);
});

const picture = (seed: number, batch = 1): U8Tensor =>
  u8Tensor(
    [batch, 40, 50, 3],
    Uint8Array.from({ length: batch * 40 * 50 * 3 }, (_none, i) => (i * 31 + seed * 17 + (i >> 5)) % 256),
  );

const stats = async ({ store }: TestEngine): Promise<FeatureStoreStats> => (await store()).features.stats();

/** Encodes until the weights are known and the features are kept. */
async function encodeUntilKept(started: TestEngine, model: VisionModel, image: U8Tensor): Promise<VisionOutput> {
  const before = (await stats(started)).entries;
  for (;;) {
    const output = await started.engine.encode(model, image);
    const { entries, hits } = await stats(started);
    if (entries > before || hits > 0) return output;
  }
}

describe('kept features', () => {
  it('are served without a run, to other processes, after a restart, and under another name of the file', async () => {
    const dataDirectory = await mkdtemp(join(folder, 'data-'));
    let first: VisionOutput;
    {
      await using started = startEngine({ dataDirectory, maxFeatureBytes: 1e8 });
      first = await encodeUntilKept(started, await started.engine.open(pathOf('one')), picture(1));
    }
    await using again = startEngine({ dataDirectory, maxFeatureBytes: 1e8 });
    const second = await again.engine.encode(await again.engine.open(pathOf('one')), picture(1));
    expect(second).toEqual(first);
    expect(again.inference.state.pid).toBeUndefined();

    await using other = startEngine({ dataDirectory, maxFeatureBytes: 1e8 });
    const copy = await other.engine.open(pathOf('one-again'));
    await encodeUntilKept(other, copy, picture(1));
    expect(await other.engine.encode(copy, picture(1))).toEqual(first);
    expect((await stats(other)).entries).toBe(3); // one picture, three outputs
  });

  it('are those of the picture, the weights, the precision, the crop and the layer that were asked for', async () => {
    await using started = startEngine({ maxFeatureBytes: 1e8 });
    await using plain = startEngine();
    for (const name of ['one', 'two']) {
      const model = await started.engine.open(pathOf(name));
      for (const seed of [1, 2]) await encodeUntilKept(started, model, picture(seed));
    }
    for (let round = 0; round < 2; round += 1) {
      for (const name of ['one', 'two']) {
        for (const seed of [1, 2]) {
          for (const options of [{}, { precision: 'fp32' }, { crop: 'none' }, { intermediateOutput: 1 }] as const) {
            const kept = await started.engine.encode(await started.engine.open(pathOf(name)), picture(seed), options);
            const fresh = await plain.engine.encode(await plain.engine.open(pathOf(name)), picture(seed), options);
            expect(kept).toEqual(fresh);
          }
        }
      }
    }
    expect((await stats(started)).hits).toBeGreaterThan(40);
  });

  it('fill a batch of which only some pictures are known, in order', async () => {
    await using started = startEngine({ maxFeatureBytes: 1e8 });
    const model = await started.engine.open(pathOf('one'));
    await encodeUntilKept(started, model, picture(3));
    const parts = [4, 3, 5].map((seed) => picture(seed).data);
    const batch = u8Tensor([3, 40, 50, 3], Uint8Array.from(parts.flatMap((part) => [...part])));
    const { imageEmbeds } = await started.engine.encode(model, batch);
    expect(imageEmbeds?.shape).toEqual([3, 16]);
    for (const [i, seed] of [4, 3, 5].entries()) {
      const alone = (await started.engine.encode(model, picture(seed))).imageEmbeds?.data ?? [];
      const row = imageEmbeds?.data.subarray(i * 16, i * 16 + 16) ?? [];
      alone.forEach((value, j) => {
        expect(row[j]).toBeCloseTo(value, 5);
      });
    }
  });

  it('are found by the bytes of a file, which then is not even decoded', async () => {
    await using started = startEngine({ maxFeatureBytes: 1e8 });
    const model = await started.engine.open(pathOf('one'));
    await encodeUntilKept(started, model, picture(9));
    const png = new Uint8Array(
      await sharp({ create: { width: 60, height: 50, channels: 3, background: 'teal' } })
        .png()
        .toBuffer(),
    );
    const first = await started.engine.encodeImage(model, { kind: 'encoded', bytes: png });
    while ((await stats(started)).entries < 7) await new Promise(setImmediate); // 3 + 3 + the file's own entry
    const before = await stats(started);
    expect(await started.engine.encodeImage(model, { kind: 'encoded', bytes: png })).toEqual(first);
    expect((await stats(started)).hits).toBe(before.hits + 4);
    // Another crop is another picture.
    await started.engine.encodeImage(model, { kind: 'encoded', bytes: png }, { crop: 'none' });
    expect((await stats(started)).misses).toBeGreaterThan(before.misses);
  });

  it('are not those of a file that was replaced under its name', async () => {
    await using started = startEngine({ maxFeatureBytes: 1e8 });
    const path = pathOf('changing');
    await writeTinyModel(path, 1);
    const model = await started.engine.open(path);
    const before = await encodeUntilKept(started, model, picture(1));
    await rm(path);
    await writeTinyModel(path, 2);
    const after = await started.engine.encode(model, picture(1));
    expect(after.imageEmbeds?.data).not.toEqual(before.imageEmbeds?.data);
    const expected = await encodeUntilKept(started, await started.engine.open(pathOf('two')), picture(1));
    expect(after.imageEmbeds).toEqual(expected.imageEmbeds);
  });

  it('take less than a millisecond to look up', async () => {
    await using started = startEngine({ maxFeatureBytes: 1e9 });
    const { features } = await started.store();
    const value = new Uint8Array(257 * 1280 * 4); // a hidden state of CLIP-ViT-H
    await features.put('a', value);
    // The best of five medians: a machine that does other work as well is not what is measured.
    const medians = Array.from({ length: 5 }, () => {
      const times = Array.from({ length: 100 }, () => {
        const begin = performance.now();
        expect(features.get('a')).toHaveLength(value.length);
        return performance.now() - begin;
      });
      return times.toSorted((one, other) => one - other)[50] ?? Infinity;
    });
    expect(Math.min(...medians)).toBeLessThan(1);
  });

  it('can be left out', async () => {
    await using started = startEngine();
    const model = await started.engine.open(pathOf('one'));
    for (let i = 0; i < 3; i += 1) await started.engine.encode(model, picture(1));
    expect(await stats(started)).toMatchObject({ entries: 0, hits: 0 });
    expect((await readFile(pathOf('one'))).length).toBeGreaterThan(0);
  });
});
