import { copyFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AdapterEngine, ReferenceEncoder, type IPAdapterEmbeds } from '../../../src/adapter/index.js';
import { BridgeError } from '../../../src/common/errors.js';
import { FaceEngine } from '../../../src/faces/index.js';
import type { NodeDefinition } from '../../../src/graph/index.js';
import { decodeInputs, encodeOutputs } from '../../../src/nodes/index.js';
import { parseJson, writeJson, type JsonObject } from '../../../src/protocol/json.js';
import { f32Tensor, type Tensor } from '../../../src/tensor/tensor.js';
import { createAdapterTree, type AdapterTree } from '../../support/adapter-tree.js';
import { startEngine } from '../../support/inference.js';

const { engine: vision, inference } = startEngine();
const adapters = new AdapterEngine(inference);
const faces = new FaceEngine(inference);
const references = new ReferenceEncoder(adapters, vision, faces);

const PASSES: NodeDefinition = {
  classType: 'Passes',
  api: 'v1',
  category: '',
  pythonModule: '',
  inputs: [
    { name: 'adapter', type: 'VISION_BRIDGE_IPADAPTER' },
    { name: 'embeds', type: 'VISION_BRIDGE_EMBEDS' },
  ],
  outputs: [{ type: 'VISION_BRIDGE_IPADAPTER' }, { type: 'VISION_BRIDGE_EMBEDS' }],
  execute: ({ adapter, embeds }) => ({ outputs: [adapter, embeds] }),
};

let tree: AdapterTree;
beforeAll(async () => {
  tree = await createAdapterTree({
    encoders: { 'sub/h.safetensors': 'clip-h-tiny.safetensors' },
    adapters: { 'plus.safetensors': 'plus-sd15.safetensors', 'face.safetensors': 'faceid-plusv2-sd15.safetensors' },
    faceWidth: 32,
  });
});
afterAll(async () => {
  await inference[Symbol.asyncDispose]();
  await tree[Symbol.asyncDispose]();
});

type Decoded = Record<string, unknown>;
async function decode(inputs: object, tensors: Record<string, Tensor> = {}): Promise<Decoded> {
  const services = { paths: tree.paths, vision, ipadapter: { adapters, faces, references, folders: tree.folders } };
  const values = parseJson(JSON.stringify(inputs)) as JsonObject;
  return decodeInputs(PASSES, values, new Map(Object.entries(tensors)), services);
}

async function encode(
  outputs: unknown[],
): Promise<{ values: Record<string, unknown>[]; tensors: Record<string, Tensor> }> {
  const { values, tensors } = await encodeOutputs(PASSES, { outputs });
  return { values: JSON.parse(writeJson(values)) as Record<string, unknown>[], tensors };
}

async function problemOf(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return error instanceof BridgeError ? `${error.code} ${error.message}` : `not in the catalogue: ${String(error)}`;
}

const row = f32Tensor([1, 1, 3], Float32Array.of(0, -1.5, 2));
const embeds: IPAdapterEmbeds = {
  kind: 'ipadapter_embeds',
  cond: { image: f32Tensor([2, 2, 2], Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8)), face: row },
  uncond: { face: row },
  provenance: {
    adapter: { name: 'a', variant: 'faceid_plus', identity: '1-2' },
    images: ['00ff'],
    settings: { combine: 'add', weights: [0.5, 1], tiles: 1, isFace: true },
  },
};
const handle = { kind: 'ipadapter', folder: 'ipadapter', name: 'plus.safetensors' };

describe('a handle of an adapter', () => {
  it('opens the same adapter, encoder and face networks again', async () => {
    const { adapter } = await decode({ adapter: { ...handle, name: 'face.safetensors' } });
    const sent = await encode([adapter, embeds]);
    expect(sent.values[0]).toMatchObject({
      kind: 'ipadapter',
      folder: 'ipadapter',
      name: 'face.safetensors',
      encoder_name: 'sub/h.safetensors',
      face_pack: 'buffalo_l',
      layers: [1, 3],
    });
    expect(Object.keys(sent.tensors).every((name) => name.startsWith('output.1.'))).toBe(true);
    expect((await decode({ adapter: sent.values[0] }))['adapter']).toEqual(adapter);
  });

  it('is refused once its file was replaced', async () => {
    const [sent] = (await encode([(await decode({ adapter: handle }))['adapter'], embeds])).values;
    const path = await tree.folders.adapters.resolve('plus.safetensors');
    const other = join(import.meta.dirname, '../../golden/vision/ipadapter/models/plus-face-sd15.safetensors');
    await copyFile(path, `${path}.kept`);
    try {
      await copyFile(other, path);
      expect(await problemOf(decode({ adapter: sent }))).toMatch(
        /^INVALID_REQUEST adapter: plus\.safetensors was replaced/,
      );
      await expect(decode({ adapter: handle })).resolves.toBeDefined();
    } finally {
      await copyFile(`${path}.kept`, path);
      await rm(`${path}.kept`);
    }
  });

  it.each([
    ['of another kind', { kind: 'clip_vision' }, /^INVALID_REQUEST adapter: A VISION_BRIDGE_IPADAPTER is a handle/],
    ['of another folder', { folder: 'clip_vision' }, /^INVALID_REQUEST/],
    ['without a name', { name: '' }, /^INVALID_REQUEST/],
    ['with an endless name', { name: 'a'.repeat(5000) }, /^INVALID_REQUEST/],
    ['with an absolute path', { name: '/etc/passwd' }, /^INVALID_REQUEST/],
    ['with an absolute encoder', { encoder_name: '/etc/passwd' }, /^INVALID_REQUEST/],
    ['that climbs', { name: '../clip_vision/sub/h.safetensors' }, /^(MODEL_NOT_FOUND|PATH_OUTSIDE_FOLDER)/],
    [
      'with an encoder that climbs',
      { encoder_name: '../ipadapter/plus.safetensors' },
      /^(MODEL_NOT_FOUND|PATH_OUTSIDE)/,
    ],
    ['with a pack that climbs', { name: 'face.safetensors', face_pack: '../models/buffalo_l' }, /^MODEL_NOT_FOUND/],
    ['with a list for a name', { name: ['plus.safetensors'] }, /^INVALID_REQUEST/],
    ['of a file that is not there', { name: 'gone.safetensors' }, /^MODEL_NOT_FOUND/],
  ])('%s gives an error of the catalogue', async (_what, change, problem) => {
    expect(await problemOf(decode({ adapter: { ...handle, ...change } }))).toMatch(problem);
  });
});

describe('embeds', () => {
  it('come back with their provenance, to the last bit', async () => {
    const { values, tensors } = await encode([(await decode({ adapter: handle }))['adapter'], embeds]);
    expect(Object.keys(tensors).sort()).toEqual(['output.1.cond.face', 'output.1.cond.image', 'output.1.uncond.face']);
    const back = Object.entries(tensors).map(([name, tensor]) => [name.replace('output.1', 'input.embeds'), tensor]);
    const sent = Object.fromEntries(back) as Record<string, Tensor>;
    expect((await decode({ embeds: values[1] }, sent))['embeds']).toEqual(embeds);
  });

  const value = { kind: 'ipadapter_embeds', provenance: { images: [], settings: {} } };
  const cond = { 'input.embeds.cond.image': row };
  it.each<[string, object, Record<string, Tensor>, RegExp]>([
    ['of another kind', { ...value, kind: 'features' }, cond, /^INVALID_REQUEST embeds: a value of kind/],
    ['without a conditional part', value, { 'input.embeds.uncond.image': row }, /^EMBEDS_INVALID/],
    ['without provenance', { kind: value.kind }, cond, /^EMBEDS_INVALID/],
    [
      'with settings of another form',
      { ...value, provenance: { images: [], settings: { a: {} } } },
      cond,
      /^EMBEDS_INV/,
    ],
    ['without elements', value, { 'input.embeds.cond.image': f32Tensor([0, 4], new Float32Array()) }, /^EMBEDS_INV/],
    [
      'of four dimensions',
      value,
      { 'input.embeds.cond.image': f32Tensor([1, 1, 1, 1], Float32Array.of(1)) },
      /^EMBEDS_INV/,
    ],
    [
      'that are no numbers',
      value,
      { 'input.embeds.cond.image': f32Tensor([1, 2], Float32Array.of(1, NaN)) },
      /^EMBEDS_INV/,
    ],
    [
      'of whole numbers',
      value,
      { 'input.embeds.cond.image': { dtype: 'U8', shape: [1, 1], data: Uint8Array.of(1) } },
      /^EMBEDS/,
    ],
    ['with a tensor that no one knows', value, { ...cond, 'input.embeds.more': row }, /^INVALID_REQUEST embeds: /],
  ])('%s give an error of the catalogue', async (_what, json, tensors, problem) => {
    expect(await problemOf(decode({ embeds: json }, tensors))).toMatch(problem);
  });
});
