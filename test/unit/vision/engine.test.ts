import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseSafetensors, serializeSafetensors } from '../../../src/formats/index.js';
import { CLIPVisionEncoder, ComfyUIPathResolver, loadClipVision, ModelPathConfig } from '../../../src/index.js';
import { f32Tensor, u8Tensor, type Tensor } from '../../../src/tensor/tensor.js';
import { presetConfig, writeRandomModel, type VisionConfig } from '../../../src/vision/index.js';
import { maxAbsDiff } from '../../support/compare.js';
import { startEngine, type TestEngine } from '../../support/inference.js';

let folder = '';
let started: TestEngine;
const model = (): string => join(folder, 'model.safetensors');

function tinyConfig(): VisionConfig {
  const preset = presetConfig('CLIP-ViT-L');
  if (preset === undefined) throw new Error('no preset');
  return {
    ...preset.config,
    imageSize: 28,
    hiddenSize: 32,
    heads: 2,
    layers: 3,
    intermediateSize: 48,
    projectionDim: 16,
  };
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-vision-'));
  started = startEngine();
  await writeRandomModel(model(), tinyConfig(), { withConfig: true, dtype: 'F32' });
});
afterAll(async () => {
  await started[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

/** The model, changed. */
async function variant(
  name: string,
  change: (tensors: Record<string, Tensor>, metadata: Record<string, string>) => void,
): Promise<string> {
  const { tensors, metadata } = parseSafetensors(await readFile(model()));
  const changed = { tensors: Object.fromEntries(tensors), metadata: Object.fromEntries(metadata) };
  change(changed.tensors, changed.metadata);
  const path = join(folder, `${name}.safetensors`);
  await writeFile(path, serializeSafetensors(changed.tensors, changed.metadata));
  return path;
}

const grey = u8Tensor([1, 40, 30, 3], new Uint8Array(40 * 30 * 3).fill(128));

describe('opening', () => {
  it('says family, layout, where the configuration is from, and what can be had', async () => {
    expect(await started.engine.open(model())).toMatchObject({
      family: 'clip_vision_model (32 wide, 3 layers)',
      layout: 'hf',
      configuredBy: 'metadata',
      outputs: ['last_hidden_state', 'penultimate_hidden_states', 'image_embeds'],
      dtypes: ['F32'],
    });
  });

  it.each([
    [
      'a weight that is missing',
      'TENSOR_MISSING',
      /lacks vision_model.encoder.layers.1.mlp.fc1.weight/,
      (tensors: Record<string, Tensor>) => {
        delete tensors['vision_model.encoder.layers.1.mlp.fc1.weight'];
      },
    ],
    [
      'a weight of another shape',
      'TENSOR_INVALID',
      /\[31\] in place of \[32\]/,
      (tensors: Record<string, Tensor>) => {
        tensors['vision_model.pre_layrnorm.bias'] = f32Tensor([31], new Float32Array(31));
      },
    ],
    [
      'a weight of another dtype',
      'TENSOR_INVALID',
      /stored as U8/,
      (tensors: Record<string, Tensor>) => {
        tensors['vision_model.pre_layrnorm.bias'] = u8Tensor([32], new Uint8Array(32));
      },
    ],
    [
      'no configuration',
      'VISION_FAMILY_UNKNOWN',
      /not in a depth or width that ComfyUI knows, and it carries no configuration/,
      (_tensors: Record<string, Tensor>, metadata: Record<string, string>) => {
        delete metadata['config'];
      },
    ],
    [
      'a configuration that is no JSON',
      'VISION_FAMILY_UNKNOWN',
      /is not JSON/,
      (_tensors: Record<string, Tensor>, metadata: Record<string, string>) => {
        metadata['config'] = '{';
      },
    ],
    [
      'heads that do not divide the width',
      'VISION_FAMILY_UNKNOWN',
      /cannot be split into 5 heads/,
      (_tensors: Record<string, Tensor>, metadata: Record<string, string>) => {
        metadata['config'] = (metadata['config'] ?? '').replace('"num_attention_heads":2', '"num_attention_heads":5');
      },
    ],
    [
      'an absurd size',
      'VISION_FAMILY_UNKNOWN',
      /num_hidden_layers/,
      (_tensors: Record<string, Tensor>, metadata: Record<string, string>) => {
        metadata['config'] = (metadata['config'] ?? '').replace('"num_hidden_layers":3', '"num_hidden_layers":1e9');
      },
    ],
  ])('refuses %s', async (what, code, message, change) => {
    const path = await variant(what.replaceAll(' ', '-'), change);
    await expect(started.engine.open(path)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message) as string,
    });
  });

  it('never makes up an output whose weights are absent', async () => {
    const path = await variant('no-projection', (tensors) => {
      delete tensors['visual_projection.weight'];
    });
    const opened = await started.engine.open(path);
    expect(opened.outputs).toEqual(['last_hidden_state', 'penultimate_hidden_states']);
    await expect(started.engine.encode(opened, grey, { outputs: ['image_embeds'] })).rejects.toMatchObject({
      code: 'OUTPUT_UNAVAILABLE',
    });
    expect((await started.engine.encode(opened, grey)).imageEmbeds).toBeUndefined();
  });
});

describe('encoding', () => {
  it('gives a batch what it gives each image alone', async () => {
    const opened = await started.engine.open(model());
    const data = Uint8Array.from({ length: 3 * 28 * 28 * 3 }, (_none, i) => (i * 31) % 251);
    const batch = await started.engine.encode(opened, u8Tensor([3, 28, 28, 3], data));
    const second = await started.engine.encode(
      opened,
      u8Tensor([1, 28, 28, 3], data.slice(28 * 28 * 3, 2 * 28 * 28 * 3)),
    );
    expect(batch.imageEmbeds?.shape).toEqual([3, 16]);
    expect(batch.imageEmbeds?.data.slice(16, 32)).toEqual(second.imageEmbeds?.data);
  });

  it('drops alpha, and gives u8 and f32 pictures of the same levels the same features', async () => {
    const opened = await started.engine.open(model());
    const rgba = new Float32Array(28 * 28 * 4).map((_none, i) => (i % 4 === 3 ? 0.3 : 128 / 255));
    const fromFloats = await started.engine.encode(opened, f32Tensor([1, 28, 28, 4], rgba));
    const fromLevels = await started.engine.encode(
      opened,
      u8Tensor([1, 28, 28, 3], new Uint8Array(28 * 28 * 3).fill(128)),
    );
    expect(fromFloats.imageEmbeds).toEqual(fromLevels.imageEmbeds);
  });

  it.each([
    [u8Tensor([40, 30, 3], new Uint8Array(3600)), /\[B, H, W, C\]/],
    [u8Tensor([1, 40, 90, 1], new Uint8Array(3600)), /three channels/],
    [{ pixelValues: f32Tensor([1, 3, 8, 8], new Float32Array(192)) }, /\[B, 3, 28, 28\]/],
  ])('refuses input of another shape', async (input, message) => {
    await expect(started.engine.encode(await started.engine.open(model()), input)).rejects.toThrow(message);
  });
});

describe('the library', () => {
  it('finds an encoder by content, whatever it is called, and splits its features', async () => {
    const models = await mkdtemp(join(folder, 'models-'));
    await writeFile(
      join(models, 'a-lora.safetensors'),
      serializeSafetensors({ 'x.lora_down.weight': f32Tensor([1], new Float32Array(1)) }),
    );
    await writeFile(join(models, 'strange name.safetensors'), await readFile(model()));
    const resolver = ComfyUIPathResolver.fromConfig(new ModelPathConfig({ clip_vision: [models] }));
    await using encoder = await loadClipVision({ resolver, featureStore: false });
    expect(encoder.getEmbeddingDim()).toBe(16);
    const chw = new Float32Array(3 * 28 * 28).map((_none, i) => (i % 97) / 97);
    const hwc = new Float32Array(chw.length).map((_none, i) => chw[(i % 3) * 784 + Math.floor(i / 3)] ?? 0);
    const fromChw = await encoder.encodeImage({ kind: 'f32-chw', data: chw, shape: [3, 28, 28] });
    const fromHwc = await encoder.encodeImage({ kind: 'f32-hwc', data: hwc, shape: [28, 28, 3] });
    expect(fromChw.globalFeatures).toEqual(fromHwc.globalFeatures);
    expect(fromChw.patchFeatures.shape).toEqual([1, 4, 32]);
    expect(fromChw.clsToken?.shape).toEqual([1, 32]);
    expect(fromChw.clsToken?.data).toEqual(fromChw.output.lastHiddenState?.data.slice(0, 32));
    const batch = await encoder.encodeImagesBatch([
      { kind: 'f32-chw', data: chw, shape: [3, 28, 28] },
      { kind: 'u8-hwc', data: grey.data, shape: [40, 30, 3] },
    ]);
    expect(batch.patchFeatures.shape).toEqual([2, 4, 32]);
    expect(
      maxAbsDiff(
        f32Tensor([1, 16], batch.globalFeatures?.data.slice(0, 16) ?? new Float32Array(0)),
        fromChw.globalFeatures ?? (grey as never),
      ),
    ).toBeLessThan(1e-6); // a product of one row is summed in another order
    await expect(
      encoder.to('dml').encodeImage({ kind: 'f32-chw', data: chw, shape: [3, 28, 28] }),
    ).rejects.toMatchObject({ code: 'DEVICE_UNAVAILABLE', message: expect.stringContaining('Windows') as string });
    expect(encoder.to('cpu')).toBe(encoder);
    await expect(encoder.encodeImage({ kind: 'f32-hwc', data: hwc, shape: [5, 5, 3] })).rejects.toMatchObject({
      code: 'INVALID_REQUEST',
    });
  });

  it('says where it looked and why each file is none', async () => {
    const models = await mkdtemp(join(folder, 'none-'));
    await writeFile(
      join(models, 'lora.safetensors'),
      serializeSafetensors({ 'x.lora_down.weight': f32Tensor([1], new Float32Array(1)) }),
    );
    const resolver = ComfyUIPathResolver.fromConfig(new ModelPathConfig({ clip_vision: [models] }));
    await expect(loadClipVision({ resolver })).rejects.toMatchObject({
      code: 'MODEL_NOT_FOUND',
      message: expect.stringMatching(/Looked in .*none-.*it is a LoRA/) as string,
    });
    await expect(CLIPVisionEncoder.fromPretrained(join(models, 'nope.safetensors'))).rejects.toMatchObject({
      code: 'MODEL_NOT_FOUND',
    });
  });
});
