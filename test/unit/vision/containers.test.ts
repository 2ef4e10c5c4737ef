/** One encoder in every container gives the same numbers, bit for bit: the weights are the same bytes elsewhere. */
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseSafetensors, serializeSafetensors } from '../../../src/formats/index.js';
import { f16BitsToF32 } from '../../../src/tensor/float16.js';
import { f8ToF32Array, type Float8 } from '../../../src/tensor/float8.js';
import { f32Tensor, tensorBytes, u8Tensor, type Tensor } from '../../../src/tensor/tensor.js';
import type { Precision, VisionOutput } from '../../../src/vision/index.js';
import { startEngine, type TestEngine } from '../../support/inference.js';
import { archiveOf, legacyTorchFileOf, pickledTensor, py, torchFileOf } from '../../support/torch-files.js';

const FIXTURES = join(import.meta.dirname, '../../fixtures/torch');
const SAFETENSORS = join(FIXTURES, 'clip.safetensors');
const PATCHES = 'vision_model.embeddings.patch_embedding.weight';
const FC1 = 'vision_model.encoder.layers.0.mlp.fc1.weight';

let folder = '';
let started: TestEngine;
let tensors: Record<string, Tensor>;
let texts: Record<string, string>;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-containers-'));
  started = startEngine();
  const parsed = parseSafetensors(await readFile(SAFETENSORS));
  tensors = Object.fromEntries(parsed.tensors);
  texts = Object.fromEntries(parsed.metadata);
});
afterAll(async () => {
  await started[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

const picture = u8Tensor(
  [1, 20, 24, 3],
  Uint8Array.from({ length: 1440 }, (_none, i) => (i * 37) % 251),
);

async function encode(path: string, precision: Precision = 'comfy'): Promise<VisionOutput> {
  return started.engine.encode(await started.engine.open(path), picture, { precision });
}

async function fileOf(name: string, bytes: Uint8Array | string): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, bytes);
  return path;
}

describe('an encoder', () => {
  it('that torch.save wrote gives what the same weights give as safetensors', async () => {
    const expected = await encode(SAFETENSORS);
    expect(expected.imageEmbeds?.shape).toEqual([1, 12]);
    expect(expected.imageEmbeds?.data.every(Number.isFinite)).toBe(true);
    expect(await encode(join(FIXTURES, 'clip.bin'))).toEqual(expected);
  });

  it.each([
    ['a 64-bit archive', () => torchFileOf(tensors, texts, { is64: true })],
    ['a file from before 1.6, its data at odd places', () => legacyTorchFileOf(tensors, texts)],
  ])('in %s gives what it gives as safetensors', async (what, make) => {
    expect(await encode(await fileOf(`${what.replaceAll(' ', '-')}.bin`, make()))).toEqual(await encode(SAFETENSORS));
  });

  it('of fp32 weights in an archive is rounded as ComfyUI rounds it', async () => {
    const wide = Object.fromEntries(
      Object.entries(tensors).map(([name, { shape, data }]) => [
        name,
        f32Tensor(
          shape,
          Float32Array.from(data as Uint16Array, (bits) => f16BitsToF32(bits) * 1.0001),
        ),
      ]),
    );
    const archive = await fileOf('wide.bin', torchFileOf(wide, texts));
    const same = await fileOf('wide.safetensors', serializeSafetensors(wide, texts));
    for (const precision of ['comfy', 'fp32'] as const) {
      expect(await encode(archive, precision)).toEqual(await encode(same, precision));
    }
    expect(await encode(archive, 'comfy')).not.toEqual(await encode(archive, 'fp32'));
  });

  it('in several files gives what it gives in one, and notices when one is replaced', async () => {
    const names = Object.keys(tensors);
    const files = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'] as const;
    const split = async (all: Record<string, Tensor>): Promise<void> => {
      const parts = [names.slice(0, 9), names.slice(9)].map((part) =>
        Object.fromEntries(part.flatMap((name) => (all[name] === undefined ? [] : [[name, all[name]]]))),
      );
      for (const [i, file] of files.entries()) await fileOf(file, serializeSafetensors(parts[i] ?? {}, texts));
    };
    await split(tensors);
    const map = Object.fromEntries(names.map((name, i) => [name, files[i < 9 ? 0 : 1]]));
    const index = await fileOf('model.safetensors.index.json', JSON.stringify({ weight_map: map }));
    const expected = await encode(SAFETENSORS);
    expect(await encode(index)).toEqual(expected);
    expect(await encode(join(folder, files[1]))).toEqual(expected);
    const opened = await started.engine.open(index);
    expect(opened.files).toEqual([index, ...files.map((file) => join(folder, file))]);
    const projection = tensors['visual_projection.weight'];
    if (projection?.dtype !== 'F16') throw new Error('no projection');
    await split({ ...tensors, 'visual_projection.weight': { ...projection, data: projection.data.toReversed() } });
    const changed = await started.engine.encode(opened, picture);
    expect(changed.imageEmbeds).not.toEqual(expected.imageEmbeds);
    expect(changed.lastHiddenState).toEqual(expected.lastHiddenState);
  });

  it('in several files that are links into one folder runs from there, in int8 too', async () => {
    const [blobs, links] = [join(folder, 'blobs'), join(folder, 'links')];
    await mkdir(blobs);
    await mkdir(links);
    const names = Object.keys(tensors);
    const file = 'model-00001-of-00001.bin';
    await writeFile(join(blobs, '4f1c'), torchFileOf(tensors, texts));
    await symlink(join(blobs, '4f1c'), join(links, file));
    const index = join(links, 'model.bin.index.json');
    await writeFile(index, JSON.stringify({ weight_map: Object.fromEntries(names.map((name) => [name, file])) }));
    for (const precision of ['comfy', 'int8'] as const) {
      expect(await encode(index, precision)).toEqual(await encode(SAFETENSORS, precision));
    }
  });

  it.each<Float8>(['F8_E4M3', 'F8_E5M2'])('of %s weights gives what the widened weights give', async (dtype) => {
    const narrow: Record<string, Tensor> = {};
    const wide: Record<string, Tensor> = {};
    for (const [name, { shape, data }] of Object.entries(tensors)) {
      // Of either format: values of sensible sizes, both signs.
      const bits = Uint8Array.from(data as Uint16Array, (half) => ((half >> 8) & 0x80) | (0x20 + (half & 0x0f)));
      narrow[name] = { dtype, shape, data: bits };
      wide[name] = f32Tensor(shape, f8ToF32Array(dtype, bits));
    }
    const eight = await fileOf(`${dtype}.safetensors`, serializeSafetensors(narrow, texts));
    const full = await fileOf(`${dtype}-wide.safetensors`, serializeSafetensors(wide, texts));
    expect((await started.engine.open(eight)).dtypes).toEqual([dtype]);
    const expected = await encode(full, 'fp32');
    expect(expected.imageEmbeds?.data.some((value) => value !== 0)).toBe(true);
    expect(await encode(eight, 'fp32')).toEqual(expected);
    expect(await encode(eight, 'comfy')).toEqual(expected);
  });

  it.each([
    ['scaled_fp8', 'scaled_fp8'],
    [FC1.replace('weight', 'scale_weight'), 'scale_weight'],
    [FC1.replace('weight', 'weight_scale'), 'weight_scale'],
  ])('of scaled fp8 weights, told by %s, is refused', async (key, named) => {
    const fc1 = tensors[FC1];
    const weights: Record<string, Tensor> = {
      ...tensors,
      [FC1]: { dtype: 'F8_E4M3', shape: fc1?.shape ?? [], data: new Uint8Array(fc1?.data.length ?? 0) },
      [key]: f32Tensor([], Float32Array.of(0.5)),
    };
    const path = await fileOf('scaled.safetensors', serializeSafetensors(weights, texts));
    await expect(started.engine.open(path)).rejects.toMatchObject({
      code: 'TENSOR_INVALID',
      message: expect.stringMatching(new RegExp(`scaled fp8 .*${named}`)) as string,
    });
  });

  it('with a weight that is a transposed view is refused, and the weight is named', async () => {
    const shape = tensors[PATCHES]?.shape ?? [];
    const storages = Object.fromEntries(
      Object.values(tensors).map((tensor, i) => [String(i), Buffer.from(tensorBytes(tensor))]),
    );
    const table = Object.entries(tensors).map(([name, tensor], i) => {
      const strides = name === PATCHES ? { strides: [192, 1, 24, 3] } : {};
      const options = { key: String(i), storage: 'HalfStorage', shape: tensor.shape, ...strides };
      return [py.text(name), pickledTensor(options)] as const;
    });
    const root = py.dict([
      [py.text('state_dict'), py.dict(table)],
      [py.text('config'), py.text(texts['config'] ?? '')],
    ]);
    expect(shape).toEqual([16, 3, 8, 8]);
    const path = await fileOf('view.bin', archiveOf(py.pickle(root), storages));
    await expect(started.engine.open(path)).rejects.toMatchObject({
      code: 'TENSOR_INVALID',
      message: expect.stringMatching(/patch_embedding.weight is a transposed or cut view/) as string,
    });
  });
});
