import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Progress } from '../../../src/runtime/index.js';
import { f32Tensor, u8Tensor } from '../../../src/tensor/tensor.js';
import { presetConfig, writeRandomModel } from '../../../src/vision/index.js';
import { OpenModels, type ModelRequest, type OpenModel } from '../../../src/vision/open-models.js';
import { cosineDistance } from '../../support/compare.js';
import { startEngine } from '../../support/inference.js';

let folder = '';
let request: ModelRequest;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-open-'));
  const path = join(folder, 'model.safetensors');
  const preset = presetConfig('CLIP-ViT-H');
  if (preset === undefined) throw new Error('no preset');
  const small = { hiddenSize: 64, heads: 2, layers: 3, intermediateSize: 128, imageSize: 56, projectionDim: 32 };
  await writeRandomModel(path, { ...preset.config, ...small }, { withConfig: true });
  const dataDirectory = join(folder, 'data');
  await using started = startEngine({ dataDirectory });
  const { engine } = started;
  const grey = u8Tensor([1, 56, 56, 3], new Uint8Array(56 * 56 * 3).fill(128));
  await engine.encode(await engine.open(path), grey, { precision: 'int8' });
  const [file = ''] = await readdir(join(dataDirectory, 'quantized'));
  const quantized = join(dataDirectory, 'quantized', file);
  request = { path, precision: 'int8', quantized, device: 'cpu', keepsAllStates: false };
});
afterAll(() => rm(folder, { recursive: true }));

const pixelValues = f32Tensor(
  [1, 3, 56, 56],
  Float32Array.from({ length: 3 * 56 * 56 }, (_none, i) => Math.sin(i / 40)),
);
const ignore = (): void => undefined;

async function imageEmbeds({ session }: OpenModel): Promise<Float32Array> {
  const results = await session.run({ pixel_values: pixelValues }, ['image_embeds']);
  return results.get('image_embeds')?.data ?? new Float32Array(0);
}

describe('an int8 model', () => {
  it('gets a faster session when nobody waits, once it has run some pictures, and gives the same features', async () => {
    const models = new OpenModels();
    const { session: first } = await models.acquire(request, 1, ignore);
    await models.tidy();
    const seldom = await models.acquire(request, 3, ignore);
    expect(seldom.session).toBe(first);
    const before = await imageEmbeds(seldom);
    await models.tidy();
    const packed = await models.acquire(request, 1, ignore);
    expect(packed.session).not.toBe(first);
    expect(cosineDistance(await imageEmbeds(packed), before)).toBeLessThan(1e-9);
    await models.tidy();
    expect((await models.acquire(request, 100, ignore)).session).toBe(packed.session);
  });

  it('gets it at once where that is worth its time, and is loaded with it for many pictures', async () => {
    const models = new OpenModels();
    const { session: first } = await models.acquire(request, 20, ignore);
    const second = await models.acquire(request, 20, ignore);
    expect(second.session).not.toBe(first);
    const stages: Progress[] = [];
    const many = new OpenModels();
    const { session } = await many.acquire(request, 64, (progress) => stages.push(progress));
    await many.tidy();
    expect((await many.acquire(request, 64, ignore)).session).toBe(session);
    expect(stages).toEqual([{ stage: 'loading', model: request.path }]);
  });
});

describe('a model as it is stored', () => {
  it('has one session from the start: packing its weights would take another copy of them', async () => {
    const models = new OpenModels();
    const stored = { path: request.path, precision: 'comfy', device: 'cpu', keepsAllStates: false } as const;
    const { session } = await models.acquire(stored, 1, ignore);
    await models.acquire(stored, 100, ignore);
    await models.tidy();
    expect((await models.acquire(stored, 1, ignore)).session).toBe(session);
  });
});
