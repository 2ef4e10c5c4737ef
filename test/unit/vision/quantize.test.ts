import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Logger } from '../../../src/common/logger.js';
import { parseSafetensors, serializeSafetensors } from '../../../src/formats/index.js';
import type { Progress } from '../../../src/runtime/index.js';
import { u8Tensor, type F32Tensor } from '../../../src/tensor/tensor.js';
import { presetConfig, writeRandomModel, type VisionOutput } from '../../../src/vision/index.js';
import { startEngine, type TestEngine } from '../../support/inference.js';

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-int8-'));
});
afterAll(() => rm(folder, { recursive: true }));

const SMALL = { hiddenSize: 64, heads: 2, layers: 3, intermediateSize: 128, imageSize: 56, patchSize: 14 } as const;

async function smallModel(
  name: string,
  preset: string,
  options: Parameters<typeof writeRandomModel>[2] = {},
): Promise<string> {
  const found = presetConfig(preset);
  if (found === undefined) throw new Error('no preset');
  const path = join(folder, `${name}.safetensors`);
  const keepsShape = found.config.imageSize === -1 ? { imageSize: -1, maxPatches: 36 } : {};
  const projection = found.config.projectionDim === undefined ? {} : { projectionDim: 32 };
  await writeRandomModel(
    path,
    { ...found.config, ...SMALL, ...keepsShape, ...projection },
    { withConfig: true, modelType: found.modelType, ...options },
  );
  return path;
}

const photo = u8Tensor(
  [1, 70, 90, 3],
  Uint8Array.from({ length: 70 * 90 * 3 }, (_none, i) => 128 + 100 * Math.sin(i / 50) * Math.cos(i / 777)),
);

/** Smallest cosine over tokens. */
function smallestCosine(a: F32Tensor | undefined, b: F32Tensor | undefined): number {
  if (a === undefined || b === undefined || a.shape.join() !== b.shape.join()) return -1;
  const width = a.shape.at(-1) ?? 1;
  let smallest = 1;
  for (let begin = 0; begin < a.data.length; begin += width) {
    const [x, y] = [a, b].map(({ data }) => data.subarray(begin, begin + width)) as [Float32Array, Float32Array];
    const dot = (p: Float32Array, q: Float32Array): number => p.reduce((sum, value, i) => sum + value * (q[i] ?? 0), 0);
    smallest = Math.min(smallest, dot(x, y) / Math.sqrt(dot(x, x) * dot(y, y)));
  }
  return smallest;
}

/** Remembers what is said of finished quantisations. */
function listening(): { logger: Logger; made: { scheme?: unknown; cosine?: unknown }[] } {
  const made: { scheme?: unknown; cosine?: unknown }[] = [];
  const ignore = (): void => undefined;
  const info = (fields: object): void => {
    if ('cosine' in fields) made.push(fields);
  };
  return { made, logger: { error: ignore, warn: ignore, debug: ignore, info } };
}

async function encodeInt8(
  { engine }: TestEngine,
  path: string,
  onProgress?: (progress: Progress) => void,
): Promise<VisionOutput> {
  return engine.encode(await engine.open(path), photo, { precision: 'int8', onProgress });
}

describe('int8', () => {
  it.each([
    'CLIP-ViT-H',
    'CLIP-ViT-L',
    'SigLIP so400m 384',
    'SigLIP2 so400m NaFlex',
    'DINOv2 large',
    'DINOv2 giant',
    'DINOv3 ViT-L/16',
  ])('of a %s is near to exact arithmetic, for every token of every output', async (preset) => {
    if (presetConfig(preset) === undefined) throw new Error(`no preset ${preset}`);
    await using started = startEngine();
    const path = await smallModel(`near-${preset.replaceAll(/\W/g, '-')}`, preset);
    const int8 = await encodeInt8(started, path);
    const exact = await started.engine.encode(await started.engine.open(path), photo, { precision: 'fp32' });
    expect(Object.keys(int8)).toEqual(Object.keys(exact));
    for (const field of Object.keys(exact) as (keyof VisionOutput)[]) {
      const cosine = smallestCosine(int8[field], exact[field]);
      expect(cosine).toBeGreaterThan(0.998);
      expect(cosine).toBeLessThan(1 - 1e-9); // it is int8, not a copy of the exact result
    }
  });

  it('is made once, with progress, and found again by other processes and under other names', async () => {
    const path = await smallModel('once', 'CLIP-ViT-H');
    const { logger, made } = listening();
    await using started = startEngine({ logger });
    const stages: Progress[] = [];
    const outputs = await Promise.all([
      encodeInt8(started, path, (progress) => stages.push(progress)),
      encodeInt8(started, path),
    ]);
    expect(outputs[0].imageEmbeds).toEqual(outputs[1].imageEmbeds);
    expect(made).toHaveLength(1);
    expect(made[0]).toMatchObject({ scheme: 'int8' });
    expect(stages.filter(({ stage }) => stage === 'quantizing').at(-1)).toEqual({
      stage: 'quantizing',
      done: 6,
      total: 6,
    });

    const copy = join(folder, 'once-copy.safetensors');
    await writeFile(copy, await readFile(path));
    const other = listening();
    await using again = startEngine({ logger: other.logger, dataDirectory: started.dataDirectory });
    expect((await encodeInt8(again, copy)).imageEmbeds).toEqual(outputs[0].imageEmbeds);
    expect(other.made).toHaveLength(0);
  });

  it('is made anew when what was kept is broken, and leaves no partial file', async () => {
    const path = await smallModel('broken', 'CLIP-ViT-H');
    await using started = startEngine();
    const first = await encodeInt8(started, path);
    const kept = join(started.dataDirectory, 'quantized');
    const [name = ''] = await readdir(kept);
    for (const broken of [
      Buffer.alloc(0),
      Buffer.from('not a model'),
      (await readFile(join(kept, name))).subarray(0, 5000),
    ]) {
      await writeFile(join(kept, name), broken);
      await using fresh = startEngine({ dataDirectory: started.dataDirectory });
      expect((await encodeInt8(fresh, path)).imageEmbeds).toEqual(first.imageEmbeds);
    }
    expect(await readdir(kept)).toEqual([name]);
  });

  it('takes a finer scheme where outlier channels demand it, and says which', async () => {
    const path = await smallModel('outliers', 'CLIP-ViT-H', { outlierChannels: 8, seed: 3 });
    const { logger, made } = listening();
    await using started = startEngine({ logger });
    const int8 = await encodeInt8(started, path);
    const exact = await started.engine.encode(await started.engine.open(path), photo, { precision: 'fp32' });
    expect(made[0]?.scheme).toMatch(/^int8(-qk|x2)$/);
    expect(made[0]?.cosine).toBeGreaterThan(0.999);
    expect(smallestCosine(int8.lastHiddenState, exact.lastHiddenState)).toBeGreaterThan(0.998);
  });

  it('is refused with the figures where no scheme is near enough, and the model runs on in comfy', async () => {
    const source = await smallModel('hopeless', 'CLIP-ViT-H');
    const { tensors, metadata } = parseSafetensors(await readFile(source));
    // A weight that is no number makes every result none.
    const bias = tensors.get('vision_model.encoder.layers.0.mlp.fc1.weight');
    if (bias?.dtype !== 'F16') throw new Error('no such weight');
    bias.data[0] = 0x7e00;
    const path = join(folder, 'hopeless-nan.safetensors');
    await writeFile(path, serializeSafetensors(Object.fromEntries(tensors), Object.fromEntries(metadata)));
    await using started = startEngine();
    for (let i = 0; i < 2; i += 1) {
      await expect(encodeInt8(started, path)).rejects.toMatchObject({
        code: 'QUANTIZATION_REFUSED',
        message: expect.stringMatching(
          /hopeless-nan\.safetensors .*int8 reaches .*int8x2 reaches .*precision comfy/,
        ) as string,
      });
    }
    expect(await readdir(join(started.dataDirectory, 'quantized'))).toEqual([]);
    expect((await started.engine.encode(await started.engine.open(path), photo)).imageEmbeds?.shape).toEqual([1, 32]);
  });

  it('goes on for the others when one caller gives up', async () => {
    const path = await smallModel('given-up', 'CLIP-ViT-H', { seed: 9 });
    await using started = startEngine();
    const controller = new AbortController();
    const model = await started.engine.open(path);
    const impatient = started.engine.encode(model, photo, {
      precision: 'int8',
      signal: controller.signal,
      onProgress: () => {
        controller.abort();
      },
    });
    const patient = started.engine.encode(model, photo, { precision: 'int8' });
    await expect(impatient).rejects.toMatchObject({ code: 'CANCELLED' });
    expect((await patient).imageEmbeds?.shape).toEqual([1, 32]);
  });

  it('runs on the CPU only, and says so', async () => {
    const path = await smallModel('devices', 'CLIP-ViT-H', { seed: 11 });
    await using started = startEngine();
    const model = await started.engine.open(path);
    await expect(started.engine.encode(model, photo, { precision: 'int8', device: 'cuda' })).rejects.toMatchObject({
      code: 'DEVICE_UNAVAILABLE',
      message: expect.stringContaining('int8 runs on the CPU') as string,
    });
    expect(
      (await started.engine.encode(model, photo, { precision: 'int8', device: 'auto' })).imageEmbeds?.shape,
    ).toEqual([1, 32]);
  });
});
