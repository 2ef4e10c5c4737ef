import { copyFile, mkdtemp, rm, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import {
  AdapterEngine,
  PROJECT_OPERATION,
  type AdapterFeatures,
  type IPAdapterModel,
  type IPAdapterTokens,
} from '../../../src/adapter/index.js';
import type { InferenceProcess } from '../../../src/runtime/index.js';
import { elementCount, f32Tensor, type F32Tensor } from '../../../src/tensor/tensor.js';
import { startEngine } from '../../support/inference.js';
import { seededRandom } from '../../support/random.js';

/** Processes start slowly where many do at once. */
const WAIT_MS = 60_000;
const golden = join(import.meta.dirname, '..', '..', 'golden', 'vision', 'ipadapter', 'models');
const services = startEngine({ maxFeatureBytes: 1e8 });
let folder: string;
let calls: { rows: number; tokens: number; layers: number }[] = [];
/** The inference process itself, with a count of what it is asked for. */
const counted: Pick<InferenceProcess, 'call'> = {
  call: (operation, payload, options) => {
    const { batches, tokens, layers } = payload as {
      batches?: Record<string, F32Tensor>[];
      tokens?: F32Tensor;
      layers: number[];
    };
    if (operation === PROJECT_OPERATION) {
      const rows = (batches ?? []).reduce((sum, inputs) => sum + (Object.values(inputs)[0]?.shape[0] ?? 0), 0);
      calls.push({ rows, tokens: tokens?.shape[0] ?? 0, layers: layers.length });
    }
    return services.inference.call(operation, payload, options);
  },
};
const engine = new AdapterEngine(counted as InferenceProcess, services);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-tokens-'));
});
afterAll(async () => {
  await services[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

function states(seed: number, rows: number, width = 48): F32Tensor {
  const random = seededRandom(seed);
  const shape = [rows, 20, width];
  return f32Tensor(
    shape,
    Float32Array.from({ length: elementCount(shape) }, () => random() - 0.5),
  );
}

async function openCopy(name: string, as = name): Promise<IPAdapterModel> {
  const path = join(folder, as);
  await copyFile(join(golden, name), path);
  return engine.open(path);
}

/** Projects until the weights are known, which a thread finds out meanwhile. */
async function warmUp(model: IPAdapterModel, features: AdapterFeatures, scale = 1): Promise<void> {
  await vi.waitUntil(
    async () => {
      calls = [];
      await engine.project(model, features, { faceIdV2Scale: scale });
      return calls.length === 0;
    },
    { timeout: WAIT_MS },
  );
}

/** Waits for what is being kept: the store writes in order. */
async function untilKept(): Promise<void> {
  const { features } = await services.memory();
  await features?.put('the last', new Uint8Array(1));
}

const bytesOf = ({ tokens }: IPAdapterTokens): Buffer => Buffer.from(tokens.data.slice().buffer);

describe('image prompt tokens that were made before', () => {
  let model: IPAdapterModel;
  let width: number;
  beforeAll(async () => {
    model = await openCopy('plus-sd15.safetensors');
    width = model.encoder?.width ?? 0;
    await warmUp(model, { image: states(0, 1, width) });
  }, WAIT_MS);

  it('come from the store, the same to the bit, without asking the inference process', async () => {
    calls = [];
    const image = states(1, 2, width);
    const made = await engine.project(model, { image });
    expect(calls).toEqual([{ rows: 2, tokens: 0, layers: 0 }]);
    await untilKept();
    const kept = await engine.project(model, { image: f32Tensor(image.shape, image.data.slice()) });
    expect(calls).toHaveLength(1);
    expect(bytesOf(kept).equals(bytesOf(made))).toBe(true);
  });

  it('save each picture its own projection: only those that are new are projected', async () => {
    calls = [];
    const [old, fresh] = [states(1, 2, width), states(2, 1, width)];
    const both = f32Tensor([3, 20, width], Float32Array.from([...fresh.data, ...old.data]));
    const mixed = await engine.project(model, { image: both }, { layers: [1] });
    expect(calls).toEqual([
      { rows: 1, tokens: 0, layers: 0 },
      { rows: 0, tokens: 3, layers: 1 },
    ]);
    const plain = await new AdapterEngine(services.inference).project(model, { image: both }, { layers: [1] });
    expect(mixed.tokens.shape).toEqual(plain.tokens.shape);
    plain.tokens.data.forEach((value, i) => {
      expect(Math.abs(value - (mixed.tokens.data[i] ?? NaN))).toBeLessThan(1e-5);
    });
    expect(mixed.layers.get(1)?.keys.shape).toEqual(plain.layers.get(1)?.keys.shape);
  });

  it('are projected once where a request has a picture several times, and stand in every place', async () => {
    calls = [];
    const [a, b] = [states(3, 1, width), states(4, 1, width)];
    const image = f32Tensor([4, 20, width], Float32Array.from([...a.data, ...b.data, ...a.data, ...a.data]));
    const { tokens, layers } = await engine.project(model, { image }, { layers: [3] });
    expect(calls).toEqual([{ rows: 2, tokens: 0, layers: 1 }]);
    const length = tokens.data.length / 4;
    const row = (i: number): number[] => [...tokens.data.subarray(i * length, (i + 1) * length)];
    expect(row(2)).toEqual(row(0));
    expect(row(3)).toEqual(row(0));
    expect(row(1)).not.toEqual(row(0));
    expect(layers.get(3)?.values.shape[0]).toBe(4);
  });

  it('are made in one call for several features, and a row that two of them have is projected once', async () => {
    calls = [];
    const [cond, against] = [states(6, 3, width), states(7, 1, width)];
    const shared = f32Tensor(
      [2, 20, width],
      Float32Array.from([...against.data, ...cond.data.subarray(0, 20 * width)]),
    );
    const parts = await engine.projectAll(model, [{ image: cond }, { image: against }, { image: shared }], {
      layers: [1],
    });
    expect(calls).toEqual([{ rows: 4, tokens: 0, layers: 1 }]);
    const [own, other, both] = parts;
    if (own === undefined || other === undefined || both === undefined) throw new Error('three were asked for');
    const length = other.tokens.data.length;
    expect([...both.tokens.data]).toEqual([...other.tokens.data, ...own.tokens.data.subarray(0, length)]);
    const keys = parts.map(({ layers }) => layers.get(1)?.keys);
    expect(keys.map((tensor) => tensor?.shape[0])).toEqual([3, 1, 2]);
    // Each is its owner's: writing into one changes no other.
    const before = [...other.tokens.data];
    both.tokens.data.fill(0);
    expect([...other.tokens.data]).toEqual(before);
    const odd = states(8, 1, width);
    const cut = f32Tensor([1, 10, width], odd.data.subarray(0, 10 * width));
    await expect(engine.projectAll(model, [{ image: cond }, { image: cut }])).rejects.toMatchObject({
      code: 'INVALID_REQUEST',
      message: expect.stringContaining('do not go together') as string,
    });
  });

  it('are kept as they were made, whatever their owner writes into them at once', async () => {
    const image = states(9, 1, width);
    const made = await engine.project(model, { image });
    const bytes = bytesOf(made);
    made.tokens.data.fill(7);
    await untilKept();
    calls = [];
    expect(bytesOf(await engine.project(model, { image })).equals(bytes)).toBe(true);
    expect(calls).toEqual([]);
  });

  it('belong to the weights, not to the name: a copy has them, a file that was replaced has not', async () => {
    const image = states(1, 2, width);
    const copy = await openCopy('plus-sd15.safetensors', 'another.safetensors');
    await warmUp(copy, { image });
    const other = await openCopy('plus-face-sd15.safetensors', 'replaced.safetensors');
    const own = states(5, 1, other.encoder?.width);
    await warmUp(other, { image: own });
    await utimes(other.path, new Date(), new Date(Date.now() + 5000));
    await engine.project(other, { image: own });
    expect(calls).toHaveLength(1);
  });

  it('are not shared between settings that change them: int8, and the second version of FaceID-plus', async () => {
    const image = states(1, 2, width);
    calls = [];
    await engine.project(model, { image }, { precision: 'int8' });
    expect(calls).toHaveLength(1);
    const v2 = await openCopy('faceid-plusv2-sd15.safetensors');
    const features = {
      image: states(6, 1, v2.encoder?.width),
      face: f32Tensor([1, 1, v2.face?.width ?? 0], new Float32Array(v2.face?.width ?? 0).fill(0.1)),
    };
    await warmUp(v2, features, 0.5);
    const half = await engine.project(v2, features, { faceIdV2Scale: 0.5 });
    const whole = await engine.project(v2, features, { faceIdV2Scale: 1 });
    expect(calls).toHaveLength(1);
    expect(bytesOf(half).equals(bytesOf(whole))).toBe(false);
  });
});
