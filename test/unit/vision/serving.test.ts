import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Logger } from '../../../src/common/logger.js';
import { parseSafetensors, serializeSafetensors } from '../../../src/formats/index.js';
import { ThreadPool } from '../../../src/runtime/index.js';
import { f32Tensor, u8Tensor, type Tensor, type U8Tensor } from '../../../src/tensor/tensor.js';
import {
  HASH_FILES_TASK,
  PREPARE_TASK,
  presetConfig,
  writeRandomModel,
  type VisionOutput,
} from '../../../src/vision/index.js';
import { THREAD_ENTRY } from '../../../src/workers/index.js';
import { maxAbsDiff } from '../../support/compare.js';
import { startEngine } from '../../support/inference.js';
import { TINY, writeTinyModel } from '../../support/tiny-model.js';

let folder = '';
const pathOf = (name: string): string => join(folder, `${name}.safetensors`);
const picture = (level: number, batch = 1): U8Tensor =>
  u8Tensor([batch, 32, 32, 3], new Uint8Array(batch * 32 * 32 * 3).fill(level));

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-serving-'));
  for (const seed of [1, 2, 3]) await writeTinyModel(pathOf(`tiny-${seed}`), seed);
});
afterAll(() => rm(folder, { recursive: true }));

describe('requests at once', () => {
  it('each get their own features, whatever they ask for and whatever runs together', async () => {
    await using started = startEngine();
    const model = await started.engine.open(pathOf('tiny-1'));
    const alone: VisionOutput[] = [];
    for (let i = 0; i < 12; i += 1) alone.push(await started.engine.encode(model, picture(i * 20)));
    const together = await Promise.all(
      Array.from({ length: 12 }, (_none, i) =>
        started.engine.encode(model, picture(i * 20, 1 + (i % 3)), i % 2 === 0 ? {} : { outputs: ['image_embeds'] }),
      ),
    );
    together.forEach(({ imageEmbeds, lastHiddenState }, i) => {
      const batch = 1 + (i % 3);
      expect(imageEmbeds?.shape).toEqual([batch, 16]);
      expect(lastHiddenState === undefined).toBe(i % 2 === 1);
      for (let row = 0; row < batch; row += 1) {
        const data = imageEmbeds?.data.slice(row * 16, row * 16 + 16) ?? new Float32Array(0);
        expect(maxAbsDiff(f32Tensor([1, 16], data), alone[i]?.imageEmbeds ?? f32Tensor([0], data))).toBeLessThan(1e-5);
      }
    });
  });

  it('fail alone when one asks for what cannot be, or is given up', async () => {
    await using started = startEngine();
    const model = await started.engine.open(pathOf('tiny-1'));
    const controller = new AbortController();
    const results = Promise.allSettled([
      started.engine.encode(model, picture(1)),
      started.engine.encode(model, picture(2, 200), { signal: controller.signal }),
      started.engine.encode(model, f32Tensor([1, 2, 2, 3], new Float32Array(12).fill(NaN))),
      started.engine.encode(model, picture(3)),
    ]);
    controller.abort();
    expect((await results).map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected', 'fulfilled']);
  });
});

describe('the memory budget', () => {
  it('keeps no more models than fit, and refuses one that alone does not, with what would help', async () => {
    const bytes = 1.1 * (await readFile(pathOf('tiny-1'))).length; // weights stay as they are on disk
    await using started = startEngine({ memoryBudgetBytes: 2.5 * bytes });
    const loads: string[] = [];
    const encode = async (name: string): Promise<void> => {
      await started.engine.encode(await started.engine.open(pathOf(name)), picture(1), {
        onProgress: (progress) => {
          if (progress.stage === 'loading') loads.push(name);
        },
      });
    };
    for (const name of ['tiny-1', 'tiny-2', 'tiny-1', 'tiny-2', 'tiny-3', 'tiny-2', 'tiny-1']) await encode(name);
    expect(loads).toEqual(['tiny-1', 'tiny-2', 'tiny-3', 'tiny-1']);

    await using small = startEngine({ memoryBudgetBytes: bytes / 10 });
    await expect(small.engine.encode(await small.engine.open(pathOf('tiny-1')), picture(1))).rejects.toMatchObject({
      code: 'MEMORY_BUDGET_EXCEEDED',
      message: expect.stringContaining('int8') as string,
    });
  });
});

describe('devices', () => {
  it('that are named and are not there are refused with what they need; auto goes on to the CPU with one warning', async () => {
    const warnings: unknown[] = [];
    const ignore = (): void => undefined;
    const logger = { error: ignore, info: ignore, debug: ignore, warn: (fields: unknown) => warnings.push(fields) };
    await using started = startEngine({ logger: logger as unknown as Logger });
    const model = await started.engine.open(pathOf('tiny-1'));
    await expect(started.engine.encode(model, picture(1), { device: 'dml' })).rejects.toMatchObject({
      code: 'DEVICE_UNAVAILABLE',
      message: expect.stringContaining('Windows') as string,
    });
    const onCpu = await started.engine.encode(model, picture(1));
    for (let i = 0; i < 3; i += 1) {
      const { imageEmbeds } = await started.engine.encode(model, picture(1), { device: 'auto' });
      expect(maxAbsDiff(imageEmbeds, onCpu.imageEmbeds ?? f32Tensor([0], new Float32Array(0)))).toBeLessThan(1e-3);
    }
    const devices = warnings.map((fields) => (fields as { device?: string }).device);
    expect(new Set(devices).size).toBe(devices.length);
  });
});

describe('a checkpoint', () => {
  it.each([
    ['embedder.model.visual.', 'open_clip'],
    ['conditioner.main_image_encoder.model.', 'hf'],
  ])('with an encoder under %s gives its features', async (prefix, layout) => {
    const preset = presetConfig('DINOv2 large');
    if (preset === undefined) throw new Error('no preset');
    const source = pathOf(`source-${layout}`);
    if (layout === 'hf') {
      const config = { ...preset.config, hiddenSize: 32, heads: 2, layers: 2, intermediateSize: 64, imageSize: 28 };
      await writeRandomModel(source, config, { withConfig: true, modelType: preset.modelType });
    } else await writeRandomModel(source, TINY, { withConfig: true });
    const { tensors, metadata } = parseSafetensors(await readFile(source));
    const renamed = layout === 'hf' ? Object.fromEntries(tensors) : toOpenClip(tensors);
    const checkpoint = Object.fromEntries(Object.entries(renamed).map(([name, tensor]) => [prefix + name, tensor]));
    checkpoint['model.diffusion_model.out.0.weight'] = f32Tensor([1], Float32Array.of(1));
    const path = pathOf(`checkpoint-${layout}`);
    await writeFile(path, serializeSafetensors(checkpoint, Object.fromEntries(metadata)));
    await using started = startEngine();
    const model = await started.engine.open(path);
    expect(model).toMatchObject({ layout, prefix });
    const fromCheckpoint = await started.engine.encode(model, picture(90));
    const fromFile = await started.engine.encode(await started.engine.open(source), picture(90));
    expect(fromCheckpoint).toEqual(fromFile);
  });
});

/** A transformers CLIP under open_clip's names, with q, k and v in one tensor. */
function toOpenClip(tensors: ReadonlyMap<string, Tensor>): Record<string, Tensor> {
  const of = (name: string): Tensor & { dtype: 'F16' } => {
    const tensor = tensors.get(name);
    if (tensor?.dtype !== 'F16') throw new Error(`no ${name}`);
    return tensor;
  };
  const renamed: Record<string, Tensor> = {
    class_embedding: of('vision_model.embeddings.class_embedding'),
    'conv1.weight': of('vision_model.embeddings.patch_embedding.weight'),
    positional_embedding: of('vision_model.embeddings.position_embedding.weight'),
  };
  for (const kind of ['weight', 'bias']) {
    renamed[`ln_pre.${kind}`] = of(`vision_model.pre_layrnorm.${kind}`);
    renamed[`ln_post.${kind}`] = of(`vision_model.post_layernorm.${kind}`);
    for (let i = 0; i < TINY.layers; i += 1) {
      const [from, to] = [`vision_model.encoder.layers.${i}`, `transformer.resblocks.${i}`];
      const parts = ['q', 'k', 'v'].map((part) => of(`${from}.self_attn.${part}_proj.${kind}`));
      const [rows = 0, ...rest] = parts[0]?.shape ?? [];
      const data = Uint16Array.from(parts.flatMap((part) => [...part.data]));
      renamed[`${to}.attn.in_proj_${kind}`] = { dtype: 'F16', shape: [3 * rows, ...rest], data };
      renamed[`${to}.attn.out_proj.${kind}`] = of(`${from}.self_attn.out_proj.${kind}`);
      renamed[`${to}.ln_1.${kind}`] = of(`${from}.layer_norm1.${kind}`);
      renamed[`${to}.ln_2.${kind}`] = of(`${from}.layer_norm2.${kind}`);
      renamed[`${to}.mlp.c_fc.${kind}`] = of(`${from}.mlp.fc1.${kind}`);
      renamed[`${to}.mlp.c_proj.${kind}`] = of(`${from}.mlp.fc2.${kind}`);
    }
  }
  const projection = of('visual_projection.weight');
  const [out = 0, width = 0] = projection.shape;
  const data = new Uint16Array(out * width);
  for (let i = 0; i < out * width; i += 1) data[(i % width) * out + Math.floor(i / width)] = projection.data[i] ?? 0;
  renamed['proj'] = { dtype: 'F16', shape: [width, out], data };
  return renamed;
}

describe('threads', () => {
  it('give back results and errors with their code, and can be given up', async () => {
    await using threads = new ThreadPool(THREAD_ENTRY);
    const hash = await threads.run<string>(HASH_FILES_TASK, [pathOf('tiny-1')]);
    expect(hash).toMatch(/^[0-9a-f]{64}$/);
    await expect(threads.run(HASH_FILES_TASK, [join(folder, 'missing')])).rejects.toMatchObject({
      code: 'MODEL_UNREADABLE',
    });
    await expect(
      threads.run(PREPARE_TASK, { input: { pixelValues: f32Tensor([1, 1], Float32Array.of(NaN)) } }),
    ).rejects.toMatchObject({ code: 'INVALID_REQUEST' });
    await expect(threads.run('nothing', 1)).rejects.toMatchObject({ code: 'INTERNAL' });
    await expect(threads.run(HASH_FILES_TASK, [], { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'CANCELLED',
    });
  });

  it('take over memory that is named, which is gone here, and give what they give of a copy', async () => {
    await using threads = new ThreadPool(THREAD_ENTRY);
    const images = u8Tensor(
      [1, 40, 60, 3],
      Uint8Array.from({ length: 40 * 60 * 3 }, (_none, i) => i % 256),
    );
    const window = { left: 8, top: 0, width: 32, height: 32 };
    const resampling = { filter: 'bicubic', width: 48, height: 32, window };
    const copied = await threads.run(PREPARE_TASK, { input: { images, resampling } });
    expect(images.data).toHaveLength(40 * 60 * 3);
    const moved = [images.data.buffer as ArrayBuffer];
    expect(await threads.run(PREPARE_TASK, { input: { images, resampling } }, { moved })).toEqual(copied);
    expect(images.data).toHaveLength(0);
  });

  it('are refused once they are disposed, which may happen twice', async () => {
    const threads = new ThreadPool(THREAD_ENTRY);
    await threads.run(HASH_FILES_TASK, []);
    await threads[Symbol.asyncDispose]();
    await threads[Symbol.asyncDispose]();
    await expect(threads.run(HASH_FILES_TASK, [])).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});
