import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AdapterEngine, readLayerWeights } from '../../../src/adapter/index.js';
import { parseSafetensors } from '../../../src/formats/index.js';
import { f32Tensor, type F32Tensor, type Tensor } from '../../../src/tensor/tensor.js';
import { toF32 } from '../../../src/tensor/to-f32.js';
import { startEngine } from '../../support/inference.js';
import { KOLORS_FACEID, writeRandomAdapter } from '../../support/random-adapter.js';
import { seededRandom } from '../../support/random.js';

const services = startEngine();
const engine = new AdapterEngine(services.inference);
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-layers-'));
});
afterAll(async () => {
  await services[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

async function layersOf(path: string, layers: readonly number[]): Promise<ReadonlyMap<string, Tensor>> {
  const { sizeBytes, chunks } = await readLayerWeights(path, layers);
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  const bytes = Buffer.concat(parts);
  expect(bytes.length).toBe(sizeBytes);
  return parseSafetensors(bytes).tensors;
}

/** FaceID-plus for Kolors with the widths and names of the published file, thin in between. */
const thin = {
  ...KOLORS_FACEID,
  sizes: { ...KOLORS_FACEID.sizes, hiddenWidth: 8, resampler: { width: 4096, heads: 1, depth: 1, hiddenWidth: 8 } },
  blocks: KOLORS_FACEID.blocks.map(() => 4),
};

function tensor(seed: number, shape: readonly number[]): F32Tensor {
  const random = seededRandom(seed);
  const length = shape.reduce((product, side) => product * side, 1);
  return f32Tensor(
    shape,
    Float32Array.from({ length }, () => random() - 0.5),
  );
}

const features = { image: tensor(1, [1, 3, 1024]), face: tensor(2, [1, 1, 512]) };

describe('layers of FaceID-plus for Kolors', () => {
  it('are handed out as they are stored, the first and the last one', async () => {
    const path = join(folder, 'kolors-faceid.safetensors');
    await writeRandomAdapter(path, thin);
    const stored = parseSafetensors(await readFile(path)).tensors;
    const given = await layersOf(path, [1, 139]);
    expect([...given.keys()].sort()).toEqual(
      ['1.to_k_ip.weight', '1.to_v_ip.weight', '139.to_k_ip.weight', '139.to_v_ip.weight'].sort(),
    );
    for (const [name, { shape, data }] of given) {
      const own = stored.get(`ip_adapter.${name}`);
      expect(shape).toEqual([4, 2048]);
      expect([...data.subarray(0, 64)], name).toEqual([...(own?.data.subarray(0, 64) ?? [])]);
    }
  });

  it('cannot be run by the adapter alone where they read what a layer of the diffusion model makes of its tokens', async () => {
    const model = await engine.open(join(folder, 'kolors-faceid.safetensors'));
    expect((await engine.project(model, features)).tokens.shape).toEqual([1, 6, 4096]);
    await expect(engine.project(model, features, { layers: [139] })).rejects.toMatchObject({
      code: 'OUTPUT_UNAVAILABLE',
      message: expect.stringMatching(/tokens are 4096 wide .* layers, which are 2048 wide/) as string,
    });
  });

  it('give keys and values where they read the tokens themselves', async () => {
    const path = join(folder, 'direct.safetensors');
    await writeRandomAdapter(path, { ...thin, layerContextWidth: 4096 });
    const model = await engine.open(path);
    expect(model).toMatchObject({ baseModel: 'kolors', variant: 'faceid_plus_v2', contextWidth: 4096 });
    const { tokens, layers } = await engine.project(model, features, { layers: [139] });
    const stored =
      toF32((await layersOf(path, [139])).get('139.to_v_ip.weight') as Tensor)?.data ?? new Float32Array(0);
    const values = layers.get(139)?.values;
    expect(values?.shape).toEqual([1, 6, 4]);
    values?.data.forEach((value, i) => {
      const [token, row] = [Math.floor(i / 4), i % 4];
      let sum = 0;
      for (let k = 0; k < 4096; k += 1) sum += (tokens.data[token * 4096 + k] ?? 0) * (stored[row * 4096 + k] ?? 0);
      expect(value).toBeCloseTo(sum, 2);
    });
  });
});
