/** What reading whole files tells: hashes, and values that are no numbers. */
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { blake3 } from 'hash-wasm';
import { findValueIssues } from '../../../src/library/index.js';
import { BackgroundHashing, hashModel, type ModelEntry } from '../../../src/registry/index.js';
import { silentLogger } from '../../../src/common/logger.js';
import { kohyaLora, writeSparseModel } from '../../support/model-files.js';
import { makeTestRegistry, type TestRegistry } from '../../support/registry.js';

let tree: TestRegistry;
beforeEach(async () => {
  tree = await makeTestRegistry();
});
afterEach(async () => {
  await tree[Symbol.asyncDispose]();
});

/** A file of these tensors, whose bytes are given. */
async function writeTensors(
  path: string,
  tensors: Readonly<Record<string, readonly [dtype: string, shape: readonly number[], bytes: Uint8Array]>>,
): Promise<void> {
  const header: Record<string, unknown> = {};
  let end = 0;
  for (const [name, [dtype, shape, bytes]] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [end, end + bytes.byteLength] };
    end += bytes.byteLength;
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  await mkdir(join(path, '..'), { recursive: true });
  await writeFile(path, Buffer.concat([length, json, ...Object.values(tensors).map(([, , bytes]) => bytes)]));
}

const bytesOf = (array: ArrayBufferView): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

function only(entries: readonly ModelEntry[]): ModelEntry {
  const [entry] = entries;
  if (entry === undefined || entries.length !== 1) throw new Error(`one file was expected, not ${entries.length}`);
  return entry;
}

describe('hashes', () => {
  it('are the ones that other programs give, over several chunks', async () => {
    const path = join(tree.root, 'random.bin');
    const bytes = randomBytes(9_500_001);
    await writeFile(path, bytes);
    const hashes = await hashModel(path, { dataStart: 1234 });
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    expect(hashes).toMatchObject({
      sha256,
      autoV2: sha256.slice(0, 10),
      blake3: await blake3(bytes),
      autoV1: createHash('sha256').update(bytes.subarray(0x100000, 0x110000)).digest('hex').slice(0, 8),
      tensorData: createHash('sha256').update(bytes.subarray(1234)).digest('hex'),
    });
  });

  it('have the BLAKE3 of the official test vectors', async () => {
    const path = join(tree.root, 'vector.bin');
    await writeFile(
      path,
      Uint8Array.from({ length: 1025 }, (_none, i) => i % 251),
    );
    expect((await hashModel(path)).blake3).toBe('d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444');
  });

  it('follow a renamed file, and are made again where an earlier version left some out', async () => {
    const folder = join(tree.models, 'loras');
    await writeSparseModel(join(folder, 'a.safetensors'), kohyaLora(2, 4));
    await tree.registry.scan();
    const hashes = await tree.registry.hash(only(tree.registry.entries()));
    await rename(join(folder, 'a.safetensors'), join(folder, 'b.safetensors'));
    await tree.registry.scan();
    const entry = only(tree.registry.entries());
    expect(entry.name).toBe('b.safetensors');
    expect(await tree.registry.knownHashes(entry)).toEqual(hashes);
  });

  it('are not kept for a file that is written to meanwhile, and reading stops when the caller gives up', async () => {
    await writeSparseModel(join(tree.models, 'loras/large.safetensors'), { a: [1_000_000, 1000] });
    await tree.registry.scan();
    const entry = only(tree.registry.entries());
    const stop = new AbortController();
    const hash = tree.registry.hash(entry, { signal: stop.signal, onProgress: stop.abort.bind(stop, undefined) });
    await expect(hash).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(await tree.registry.knownHashes(entry)).toBeUndefined();
  });
});

describe('hashing in the background', () => {
  it('hashes one file after the other while it is quiet, and holds while there is work', async () => {
    for (const rank of [2, 3, 4])
      await writeSparseModel(join(tree.models, `loras/${rank}.safetensors`), kohyaLora(2, rank));
    await tree.registry.scan();
    const { registry } = tree;
    let isBusy = true;
    await using hashing = new BackgroundHashing({
      contents: registry.contents,
      workers: registry.workers,
      files: () => registry.files(),
      isBusy: () => isBusy,
      logger: silentLogger,
      quietMs: 0,
      checkMs: 5,
    });
    hashing.start();
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(hashing.hashed).toBe(0);
    isBusy = false;
    while (hashing.hashed < 3) await new Promise((resolve) => setTimeout(resolve, 20));
    for (const entry of registry.entries())
      expect(await registry.knownHashes(entry)).toHaveProperty('blake3', expect.stringMatching(/^[0-9a-f]{64}$/));
  });

  it('stops in the middle of a file when it is told to, and leaves the files before it hashed', async () => {
    await writeSparseModel(join(tree.models, 'loras/small.safetensors'), kohyaLora(2, 4));
    await writeSparseModel(join(tree.models, 'loras/large.safetensors'), { a: [20_000_000, 1000] });
    await tree.registry.scan();
    const { registry } = tree;
    const hashing = new BackgroundHashing({
      contents: registry.contents,
      workers: registry.workers,
      files: () => registry.files(),
      isBusy: () => false,
      logger: silentLogger,
      quietMs: 0,
      checkMs: 5,
    });
    hashing.start();
    while (hashing.hashed < 1) await new Promise((resolve) => setTimeout(resolve, 5));
    await hashing[Symbol.asyncDispose]();
    const known = await Promise.all(
      registry.entries().map(async (entry) => [entry.name, (await registry.knownHashes(entry)) !== undefined] as const),
    );
    expect(Object.fromEntries(known)).toEqual({ 'small.safetensors': true, 'large.safetensors': false });
  });
});

describe('values', () => {
  const check = async (): ReturnType<TestRegistry['registry']['contents']['checkValues']> => {
    await tree.registry.scan();
    return tree.registry.contents.checkValues(only(tree.registry.entries()));
  };
  const path = (): string => join(tree.models, 'checkpoints/model.safetensors');

  it('are counted exactly in every floating dtype, at any place of a word', async () => {
    await writeTensors(path(), {
      'f8-e4m3': ['F8_E4M3', [7], Uint8Array.of(0x7f, 0, 0xff, 0x7e, 0x7f, 0x3f, 0xff)], // no infinity there
      'f8-e5m2': ['F8_E5M2', [5], Uint8Array.of(0x7c, 0xfc, 0x7d, 0xff, 0x7b)],
      'f8-e8m0': ['F8_E8M0', [3], Uint8Array.of(0xff, 0xfe, 0)],
      f16: ['F16', [5], bytesOf(Uint16Array.of(0x7c00, 0xfc00, 0x7e00, 0x7bff, 0x7c01))],
      bf16: ['BF16', [3], bytesOf(Uint16Array.of(0x7f80, 0xffc0, 0x7f7f))],
      f32: ['F32', [6], bytesOf(Float32Array.of(NaN, 1, -Infinity, Infinity, 3.4e38, -0))],
      f64: ['F64', [4], bytesOf(Float64Array.of(NaN, Infinity, 1e308, -Infinity))],
      good: ['F32', [3], bytesOf(Float32Array.of(0, -1, 1))],
      whole: ['I64', [1], bytesOf(BigInt64Array.of(-1n))],
    });
    const { tensors, unchecked, ...sums } = await check();
    expect(Object.fromEntries(tensors.map(({ name, nan, infinite }) => [name, [nan, infinite]]))).toEqual({
      'f8-e4m3': [4, 0],
      'f8-e5m2': [2, 2],
      'f8-e8m0': [1, 0],
      f16: [2, 2],
      bf16: [1, 1],
      f32: [1, 2],
      f64: [1, 2],
    });
    expect(sums).toEqual({ checkedTensors: 8, checkedValues: 36, nan: 12, infinite: 9, badTensors: 7 });
    expect(unchecked).toEqual({ I64: 1 });
  });

  it('agree with a plain count over random bits of every dtype', async () => {
    const bits = randomBytes(40_000);
    const halves = new Uint16Array(bits.buffer.slice(bits.byteOffset, bits.byteOffset + bits.length));
    const floats = new Float32Array(bits.buffer.slice(bits.byteOffset, bits.byteOffset + bits.length));
    await writeTensors(path(), {
      f16: ['F16', [20_000], bits],
      bf16: ['BF16', [20_000], bits],
      f32: ['F32', [10_000], bits],
    });
    const countOf = (mark: number, fraction: number): [number, number] => {
      const marked = [...halves].filter((value) => (value & mark) === mark);
      const nan = marked.filter((value) => (value & fraction) !== 0).length;
      return [nan, marked.length - nan];
    };
    const { tensors } = await check();
    expect(Object.fromEntries(tensors.map(({ name, nan, infinite }) => [name, [nan, infinite]]))).toMatchObject({
      f16: countOf(0x7c00, 0x03ff),
      bf16: countOf(0x7f80, 0x7f),
      f32: [
        [...floats].filter(Number.isNaN).length,
        [...floats].filter((value) => Math.abs(value) === Infinity).length,
      ],
    });
  });

  it('are found in the last bytes of a tensor larger than a piece, which is kept, and told by doctor', async () => {
    const values = new Float32Array(3_000_001);
    values[3_000_000] = NaN;
    await writeTensors(path(), { 'model.diffusion_model.big': ['F32', [3_000_001], bytesOf(values)] });
    expect((await check()).tensors).toEqual([
      { name: 'model.diffusion_model.big', dtype: 'F32', values: 3_000_001, nan: 1, infinite: 0 },
    ]);
    const entry = only(tree.registry.entries());
    expect(await tree.registry.contents.knownValues(entry)).toHaveProperty('nan', 1);
    const [issue] = await findValueIssues(tree.registry, tree.registry.entries());
    expect(issue).toMatchObject({ kind: 'not-a-number', severity: 'error', path: path() });
    expect(issue?.problem).toBe('1 NaN in 1 of 1 tensors: model.diffusion_model.big (1 NaN)');
    expect(issue?.fix).toMatch(/Download it again/);
  });

  it('take bounded memory, whatever the size of the file', async () => {
    await writeSparseModel(path(), { a: [600_000, 1000] }); // 1.2 GB, sparse
    await tree.registry.scan();
    const before = process.memoryUsage().rss;
    const { checkedValues } = await tree.registry.contents.checkValues(only(tree.registry.entries()));
    expect(checkedValues).toBe(600_000_000);
    expect(process.memoryUsage().rss - before).toBeLessThan(400e6);
  });

  it('of a PyTorch file are read without Python, and of a broken one refused', async () => {
    const fixture = new URL('../../golden/models/legacy-torch.pt', import.meta.url).pathname;
    await mkdir(join(tree.models, 'checkpoints'), { recursive: true });
    execFileSync('cp', [fixture, join(tree.models, 'checkpoints/a.pt')]);
    await tree.registry.scan();
    expect((await tree.registry.contents.checkValues(only(tree.registry.entries()))).checkedTensors).toBeGreaterThan(0);
    await writeFile(join(tree.models, 'checkpoints/a.pt'), '<html></html>');
    await tree.registry.scan();
    await expect(tree.registry.contents.checkValues(only(tree.registry.entries()))).rejects.toMatchObject({
      code: 'INVALID_REQUEST',
    });
  });
});
