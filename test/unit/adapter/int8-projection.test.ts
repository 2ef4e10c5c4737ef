import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { AdapterEngine, resolveAdapter } from '../../../src/adapter/index.js';
import { buildProjectionGraph, TOKENS } from '../../../src/adapter/graph.js';
import { openInt8Projection } from '../../../src/adapter/int8-projection.js';
import { keptPlace, type KeptPlace } from '../../../src/adapter/kept-projection.js';
import { readModelHeader, serializeSafetensors } from '../../../src/formats/index.js';
import { Session } from '../../../src/runtime/index.js';
import { f32Tensor, type F32Tensor, type Tensor } from '../../../src/tensor/tensor.js';
import { cosineDistance } from '../../support/compare.js';
import { startEngine } from '../../support/inference.js';
import { seededRandom } from '../../support/random.js';

const folder = await mkdtemp(join(tmpdir(), 'vision-bridge-int8-'));
afterAll(() => rm(folder, { recursive: true }));
const random = seededRandom(11);
const noise = (shape: number[], size: number): F32Tensor =>
  f32Tensor(
    shape,
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 2 * size * (random() - 0.5)),
  );
const linear = (rows: number, columns: number): F32Tensor => noise([rows, columns], Math.sqrt(3 / columns));
const checkpoint = (): Promise<void> => Promise.resolve();

/** A resampler of two heads; `gain` of the norm before keys and values. */
async function writeResampler(name: string, gain: (channel: number) => number): Promise<string> {
  const width = 128;
  const norm = (of: (channel: number) => number = () => 1): [F32Tensor, F32Tensor] => [
    f32Tensor(
      [width],
      Float32Array.from({ length: width }, (_none, i) => of(i)),
    ),
    noise([width], 0.1),
  ];
  const tensors: Record<string, Tensor> = {
    latents: noise([1, 4, width], 1),
    'proj_in.weight': linear(width, 160),
    'proj_in.bias': noise([width], 0.1),
    'proj_out.weight': linear(64, width),
    'proj_out.bias': noise([64], 0.1),
    'norm_out.weight': f32Tensor([64], new Float32Array(64).fill(1)),
    'norm_out.bias': noise([64], 0.1),
  };
  for (const layer of ['layers.0', 'layers.1']) {
    for (const [part, of] of [
      ['0.norm1', gain],
      ['0.norm2', () => 1],
      ['1.0', () => 1],
    ] as const)
      [tensors[`${layer}.${part}.weight`], tensors[`${layer}.${part}.bias`]] = norm(of);
    tensors[`${layer}.0.to_q.weight`] = linear(width, width);
    tensors[`${layer}.0.to_kv.weight`] = linear(2 * width, width);
    tensors[`${layer}.0.to_out.weight`] = linear(width, width);
    tensors[`${layer}.1.1.weight`] = linear(4 * width, width);
    tensors[`${layer}.1.3.weight`] = linear(width, 4 * width);
  }
  const file = Object.fromEntries(Object.entries(tensors).map(([key, tensor]) => [`image_proj.${key}`, tensor]));
  for (const part of ['to_k_ip', 'to_v_ip']) file[`ip_adapter.1.${part}.weight`] = linear(32, 64);
  const path = join(folder, name);
  await writeFile(path, serializeSafetensors(file));
  return path;
}

async function compare(path: string): Promise<{ scheme: string; cosine: number; apart: number; isEqual: boolean }> {
  const header = await readModelHeader(path);
  const adapter = resolveAdapter(header);
  const measured = await openInt8Projection(header, adapter, checkpoint);
  await using session = measured.session;
  await using exact = await Session.create(buildProjectionGraph(adapter), { weightsFolder: adapter.folder });
  const states = { hidden_states: noise([1, 50, 160], 2) };
  const [given, wanted] = [
    (await session.run(states, [TOKENS])).get(TOKENS)?.data ?? new Float32Array(),
    (await exact.run(states, [TOKENS])).get(TOKENS)?.data ?? new Float32Array(),
  ];
  let apart = 0;
  for (let token = 0; token < wanted.length; token += 64)
    apart = Math.max(apart, cosineDistance(given.subarray(token, token + 64), wanted.subarray(token, token + 64)));
  return { ...measured, apart, isEqual: given.every((value, i) => value === wanted[i]) };
}

describe('a resampler in 8 bits', () => {
  it('is as near to exact arithmetic on other pictures as was measured when it was made', async () => {
    const found = await compare(await writeResampler('even.safetensors', () => 1));
    expect(found.scheme).toBe('int8');
    expect(found.isEqual).toBe(false);
    expect(found.cosine).toBeGreaterThanOrEqual(0.999);
    expect(found.apart).toBeLessThan(2e-3);
  });

  it('takes the finer scheme where one number of 8 bits is not enough', async () => {
    const found = await compare(await writeResampler('outliers.safetensors', (i) => (i % 40 === 0 ? 120 : 1)));
    expect(['int8x2', 'exact']).toContain(found.scheme);
    expect(found.apart).toBeLessThan(2e-3);
  });

  it('stays exact where there is no resampler to round', async () => {
    const file = join(import.meta.dirname, '..', '..', 'golden/vision/ipadapter/models/base-sd15.safetensors');
    const header = await readModelHeader(file);
    const measured = await openInt8Projection(header, resolveAdapter(header), checkpoint);
    await measured.session[Symbol.asyncDispose]();
    expect(measured).toMatchObject({ scheme: 'exact', cosine: 1 });
  });
});

describe('what was rounded and measured', () => {
  const states = { hidden_states: noise([1, 50, 160], 2) };
  const sha256 = 'a'.repeat(64);

  async function tokensOf(
    path: string,
    place: KeptPlace,
  ): Promise<{ scheme: string; cosine: number; keepingError: string | undefined; tokens: Buffer }> {
    const header = await readModelHeader(path);
    const measured = await openInt8Projection(header, resolveAdapter(header), checkpoint, place);
    await using session = measured.session;
    const { scheme, cosine, keepingError } = measured;
    const { data } = (await session.run(states, [TOKENS])).get(TOKENS) ?? noise([1], 1);
    return { scheme, cosine, keepingError, tokens: Buffer.from(data.slice().buffer) };
  }

  it.each([
    ['in one term', () => 1],
    ['in two terms, or exact', (i: number) => (i % 40 === 0 ? 120 : 1)],
  ])('is kept, and used again to the bit: %s', async (name, gain) => {
    const path = await writeResampler(`${name}.safetensors`, gain);
    const place = keptPlace(join(folder, 'kept', name), sha256, 'plus');
    const made = await tokensOf(path, place);
    const { mtimeMs, ino } = await stat(place.path);
    const again = await tokensOf(path, place);
    expect(again).toEqual(made);
    expect(await stat(place.path)).toMatchObject({ mtimeMs, ino });
    expect(await readdir(join(folder, 'kept', name))).toHaveLength(1);
  });

  it('is made anew where the file is cut short, changed, garbage, or of other weights', async () => {
    const path = await writeResampler('anew.safetensors', () => 1);
    const place = keptPlace(join(folder, 'anew'), sha256, 'plus');
    const made = await tokensOf(path, place);
    const whole = await readFile(place.path);
    const flipped = Uint8Array.from(whole);
    flipped[whole.length - 1] = (whole.at(-1) ?? 0) ^ 1;
    const broken: Record<string, Uint8Array> = {
      'cut short': whole.subarray(0, whole.length - 100),
      'a flipped bit': flipped,
      garbage: Uint8Array.of(1, 2, 3),
      nothing: new Uint8Array(0),
      'of other weights': Buffer.from(whole.toString('latin1').replaceAll(sha256, 'b'.repeat(64)), 'latin1'),
      'without a description': serializeSafetensors({ x: noise([1], 1) }),
    };
    for (const [what, bytes] of Object.entries(broken)) {
      await writeFile(place.path, bytes);
      const again = await tokensOf(path, place);
      expect(again.tokens.equals(made.tokens), what).toBe(true);
      expect((await readFile(place.path)).equals(whole), what).toBe(true);
    }
    expect(await readdir(join(folder, 'anew'))).toHaveLength(1);
  });

  it('is used all the same where it cannot be kept, and the reason is told', async () => {
    const path = await writeResampler('unkept.safetensors', () => 1);
    const file = join(folder, 'a-file-in-the-way');
    await writeFile(file, '');
    const found = await tokensOf(path, keptPlace(join(file, 'kept'), sha256, 'plus'));
    expect(found.scheme).toBe('int8');
    expect(found.keepingError).toMatch(/ENOTDIR|EEXIST|ENOENT/);
  });

  it('is kept by the hash of the weights in the data folder, and found there by the next start', async () => {
    const path = await writeResampler('started.safetensors', () => 1);
    const dataDirectory = join(folder, 'data');
    const project = async (): Promise<Buffer> => {
      await using services = startEngine({ dataDirectory });
      const engine = new AdapterEngine(services.inference, services);
      const { tokens } = await engine.project(
        await engine.open(path),
        { image: states.hidden_states },
        { precision: 'int8' },
      );
      return Buffer.from(tokens.data.slice().buffer);
    };
    const made = await project();
    const [name, ...more] = await readdir(join(dataDirectory, 'quantized'));
    expect(name).toMatch(/^[0-9a-f]{64}-plus-projection-v1\.safetensors$/);
    expect(more).toEqual([]);
    const kept = join(dataDirectory, 'quantized', name ?? '');
    const { mtimeMs } = await stat(kept);
    expect((await project()).equals(made)).toBe(true);
    expect((await stat(kept)).mtimeMs).toBe(mtimeMs);
  });
});
