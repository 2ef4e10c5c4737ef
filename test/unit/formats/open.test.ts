import { mkdir, mkdtemp, readFile, realpath, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  readModelHeader,
  readStampKey,
  readTensor,
  serializeSafetensors,
  stampKey,
} from '../../../src/formats/index.js';
import { f32Tensor } from '../../../src/tensor/tensor.js';
import { py, torchFileOf, archiveOf } from '../../support/torch-files.js';

let root = '';
beforeAll(async () => {
  root = await realpath(await mkdtemp(join(tmpdir(), 'vision-bridge-open-')));
});
afterAll(() => rm(root, { recursive: true }));

const A = { a: f32Tensor([2], Float32Array.of(1, 2)) };
const B = { b: f32Tensor([1], Float32Array.of(3)), c: f32Tensor([2], Float32Array.of(4, 5)) };
const SHARDS = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'] as const;
const INDEX = 'model.safetensors.index.json';
const MAP: Readonly<Record<string, unknown>> = { a: SHARDS[0], b: SHARDS[1], c: SHARDS[1] };

/** A folder with these files. */
async function folderOf(files: Readonly<Record<string, Uint8Array | string | undefined>>): Promise<string> {
  const folder = await mkdtemp(join(root, 'model-'));
  for (const [name, content] of Object.entries(files)) {
    if (content !== undefined) await writeFile(join(folder, name), content);
  }
  return folder;
}

const indexOf = (map: unknown): string => JSON.stringify({ metadata: { total_size: 20 }, weight_map: map });
const sound = {
  [INDEX]: indexOf(MAP),
  [SHARDS[0]]: serializeSafetensors(A, { format: 'pt' }),
  [SHARDS[1]]: serializeSafetensors(B, { format: 'pt' }),
};

async function valuesOf(path: string): Promise<Record<string, number[]>> {
  const header = await readModelHeader(path);
  const read = [...header.tensors.keys()].map(
    async (name) => [name, Array.from((await readTensor(header, name)).data, Number)] as const,
  );
  return Object.fromEntries(await Promise.all(read));
}

describe('the content of a file, not its name, says what it is', () => {
  it.each([
    ['a PyTorch file called .safetensors', 'x.safetensors', torchFileOf(A), 'torch'],
    ['a safetensors file called .bin', 'x.bin', serializeSafetensors(A), 'safetensors'],
    ['a file without an ending', 'x', torchFileOf(A), 'torch'],
  ])('%s is read', async (_what, name, bytes, container) => {
    const header = await readModelHeader(join(await folderOf({ [name]: bytes }), name));
    expect(header.container).toBe(container);
    expect((await readTensor(header, 'a')).data).toEqual(Float32Array.of(1, 2));
  });

  const tar = Buffer.alloc(1024);
  tar.write('storages');
  tar.write('ustar', 257);

  it.each([
    ['an empty file', Buffer.alloc(0), /is empty: an interrupted download/],
    ['a web page', Buffer.from('\n<!DOCTYPE html><html><title>Log in</title></html>'), /web page/],
    ['an error in XML', Buffer.from('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'), /web page/],
    [
      'a Git LFS pointer',
      Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n'),
      /git lfs pull/,
    ],
    ['a GGUF file', Buffer.from('GGUF\u0003\0\0\0\u0001\0\0\0\0\0\0\0', 'latin1'), /GGUF/],
    ['an ONNX file', Buffer.from('\u0008\u0008\u0012\u0007pytorch\u001a\u0003', 'latin1'), /ONNX/],
    ['a tar archive', tar, /tar archive, as PyTorch wrote before/],
    ['a 7-Zip archive', Buffer.from('7z\u00bc\u00af\u0027\u001c\0\u0004and so on', 'latin1'), /7-Zip/],
    ['a packed file', gzipSync(serializeSafetensors(A)), /gzip/],
    ['an HDF5 file', Buffer.from('\u0089HDF\r\n\u001a\n', 'latin1'), /HDF5/],
    ['JSON', Buffer.from('{"model_type": "clip"}'), /it is JSON/],
  ])('%s in the place of a model says so', async (_what, bytes, message) => {
    const folder = await folderOf({ 'x.safetensors': bytes, 'x.bin': bytes });
    for (const name of ['x.safetensors', 'x.bin']) {
      await expect(readModelHeader(join(folder, name))).rejects.toMatchObject({
        code: 'MODEL_FORMAT_UNSUPPORTED',
        message: expect.stringMatching(message) as string,
      });
    }
  });

  it('a folder is no model, and a missing file is missing', async () => {
    await mkdir(join(root, 'folder.bin'));
    await expect(readModelHeader(join(root, 'folder.bin'))).rejects.toMatchObject({ code: 'MODEL_UNREADABLE' });
    await expect(readModelHeader(join(root, 'none.bin'))).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND' });
  });
});

describe('a model in several files', () => {
  it('opens by its index and by any of its files', async () => {
    const folder = await folderOf(sound);
    for (const name of [INDEX, ...SHARDS]) {
      const header = await readModelHeader(join(folder, name));
      expect(header).toMatchObject({ path: join(folder, INDEX), folder, container: 'safetensors' });
      expect([...header.tensors.values()].map(({ file }) => file)).toEqual([SHARDS[0], SHARDS[1], SHARDS[1]]);
      expect([...header.metadata]).toEqual([
        ['total_size', '20'],
        ['format', 'pt'],
      ]);
      expect(await valuesOf(join(folder, name))).toEqual({ a: [1, 2], b: [3], c: [4, 5] });
    }
  });

  it('may be of PyTorch files', async () => {
    const [first, second] = ['pytorch_model-00001-of-00002.bin', 'pytorch_model-00002-of-00002.bin'];
    const folder = await folderOf({
      'pytorch_model.bin.index.json': indexOf({ a: first, b: second, c: second }),
      [first]: torchFileOf(A),
      [second]: torchFileOf(B),
    });
    expect(await valuesOf(join(folder, second))).toEqual({ a: [1, 2], b: [3], c: [4, 5] });
  });

  it('may be links into one folder, as in the cache of the hub', async () => {
    const blobs = await folderOf({ one: sound[SHARDS[0]], two: sound[SHARDS[1]], three: sound[INDEX] });
    const folder = await folderOf({});
    await symlink(join(blobs, 'one'), join(folder, SHARDS[0]));
    await symlink(join(blobs, 'two'), join(folder, SHARDS[1]));
    await symlink(join(blobs, 'three'), join(folder, INDEX));
    const header = await readModelHeader(join(folder, INDEX));
    expect(header).toMatchObject({ path: join(folder, INDEX), folder: blobs });
    expect([...header.tensors.values()].map(({ file }) => file)).toEqual(['one', 'two', 'two']);
    expect(await valuesOf(header.path)).toEqual({ a: [1, 2], b: [3], c: [4, 5] });
  });

  it('has a stamp that changes with any of its files', async () => {
    const folder = await folderOf(sound);
    const header = await readModelHeader(join(folder, INDEX));
    expect(await readStampKey(header.path)).toBe(stampKey(header.stamp));
    for (const name of [INDEX, ...SHARDS]) {
      const before = await readStampKey(header.path);
      await utimes(join(folder, name), new Date(1e12), new Date(1e12));
      expect(await readStampKey(header.path)).not.toBe(before);
    }
    await rm(join(folder, SHARDS[1]));
    await expect(readStampKey(header.path)).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND' });
  });

  it('that is only named like one is one file', async () => {
    const folder = await folderOf({ [SHARDS[0]]: sound[SHARDS[0]] });
    expect(await valuesOf(join(folder, SHARDS[0]))).toEqual({ a: [1, 2] });
    await writeFile(join(folder, INDEX), indexOf({ z: 'other.safetensors' }));
    expect(await valuesOf(join(folder, SHARDS[0]))).toEqual({ a: [1, 2] });
  });

  const evil = archiveOf(py.pickle(py.call(py.global('os', 'system'), py.text('x'))), {});

  it.each([
    ['that is no JSON', { [INDEX]: '{"weight_map": ' }, 'SHARDS_INVALID', /not JSON/],
    ['without a table', { [INDEX]: '{"metadata": {}}' }, 'SHARDS_INVALID', /no table "weight_map"/],
    ['whose table is a list', { [INDEX]: indexOf([]) }, 'SHARDS_INVALID', /no table "weight_map"/],
    ['of numbers', { [INDEX]: indexOf({ a: 7 }) }, 'SHARDS_INVALID', /no table "weight_map"/],
    ['of nothing', { [INDEX]: indexOf({}) }, 'SHARDS_INVALID', /names no files/],
    [
      'that leads out of its folder',
      { [INDEX]: indexOf({ a: '../x.safetensors' }) },
      'SHARDS_INVALID',
      /no file in its folder/,
    ],
    ['that leads anywhere', { [INDEX]: indexOf({ a: '/etc/passwd' }) }, 'SHARDS_INVALID', /no file in its folder/],
    ['that leads to another disk', { [INDEX]: indexOf({ a: 'C:\\x.bin' }) }, 'SHARDS_INVALID', /no file in its folder/],
    ['that leads to its folder', { [INDEX]: indexOf({ a: '..' }) }, 'SHARDS_INVALID', /no file in its folder/],
    ['that names itself', { [INDEX]: indexOf({ a: INDEX }) }, 'SHARDS_INVALID', /names itself/],
    [
      'that names another index',
      { [INDEX]: indexOf({ a: 'b.json' }), 'b.json': indexOf(MAP) },
      'MODEL_FORMAT_UNSUPPORTED',
      /JSON/,
    ],
    [
      'of 1001 files',
      { [INDEX]: indexOf(Object.fromEntries(Array.from({ length: 1001 }, (_none, i) => [i, `${i}.bin`]))) },
      'SHARDS_INVALID',
      /names 1001 files/,
    ],
    ['without one of its files', { [SHARDS[1]]: undefined }, 'SHARDS_INVALID', /model-00002.* not beside it/],
    ['without one of its tensors', { [SHARDS[1]]: sound[SHARDS[0]] }, 'SHARDS_INVALID', /lacks the tensor "b"/],
    ['with a file cut off', { [SHARDS[1]]: sound[SHARDS[1]].subarray(0, -1) }, 'SAFETENSORS_INVALID', /truncated/],
    ['of two formats', { [SHARDS[1]]: torchFileOf(B) }, 'SHARDS_INVALID', /different formats/],
    ['with a file that runs commands', { [SHARDS[1]]: evil }, 'PICKLE_REFUSED', /os\.system/],
    ['with a web page', { [SHARDS[1]]: '<html>404</html>' }, 'MODEL_FORMAT_UNSUPPORTED', /web page/],
  ])('%s is refused, naming what is wrong', async (_what, change, code, message) => {
    const folder = await folderOf({ ...sound, ...change });
    await expect(readModelHeader(join(folder, INDEX))).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message) as string,
    });
  });

  it('whose files are links into different folders is refused', async () => {
    const other = await folderOf({ x: sound[SHARDS[1]] });
    const folder = await folderOf({ [INDEX]: sound[INDEX], [SHARDS[0]]: sound[SHARDS[0]] });
    await symlink(join(other, 'x'), join(folder, SHARDS[1]));
    await expect(readModelHeader(join(folder, INDEX))).rejects.toThrow(/a link into another folder/);
  });

  it('whose index is huge is refused unread', async () => {
    const folder = await folderOf({ ...sound, [INDEX]: `{"weight_map": {${' '.repeat(33 * 2 ** 20)}}}` });
    await expect(readModelHeader(join(folder, INDEX))).rejects.toThrow(/the limit is/);
    expect((await readFile(join(folder, INDEX))).length).toBeGreaterThan(2 ** 25);
  });
});
