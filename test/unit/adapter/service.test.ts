import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BridgeError } from '../../../src/common/errors.js';
import {
  AdapterEngine,
  IPAdapterServiceCore,
  parseEmbeds,
  readEmbeds,
  ReferenceEncoder,
  ReferenceImage,
  serializeEmbeds,
  type IPAdapterConfig,
} from '../../../src/adapter/index.js';
import { FaceEngine } from '../../../src/faces/index.js';
import { parseSafetensors, serializeSafetensors } from '../../../src/formats/index.js';
import { f32Tensor } from '../../../src/tensor/tensor.js';
import { createAdapterTree, type AdapterTree } from '../../support/adapter-tree.js';
import { maxAbsDiff } from '../../support/compare.js';
import { squares } from '../../support/face-networks.js';
import { f32Of, readGoldenTensors } from '../../support/golden-tensors.js';
import { startEngine } from '../../support/inference.js';
import { seededRandom } from '../../support/random.js';

const { engine: vision, inference } = startEngine();
const adapters = new AdapterEngine(inference);
const faces = new FaceEngine(inference);
const references = new ReferenceEncoder(adapters, vision, faces);
let tree: AdapterTree;
beforeAll(async () => {
  tree = await createAdapterTree({
    encoders: {
      '1-dino.safetensors': 'dinov2-large-tiny.safetensors',
      '2.safetensors': 'clip-l-tiny.safetensors',
      'sub/model.safetensors': 'clip-h-tiny.safetensors',
    },
    adapters: {
      'x.safetensors': 'base-sd15.safetensors',
      'y.safetensors': 'plus-sd15.safetensors',
      'plusv2/z.safetensors': 'faceid-plusv2-sd15.safetensors',
    },
    faceWidth: 32,
  });
});
afterAll(async () => {
  await inference[Symbol.asyncDispose]();
  await tree[Symbol.asyncDispose]();
});

function serviceOf(config: IPAdapterConfig = {}, of: AdapterTree = tree): IPAdapterServiceCore {
  const { adapters: adapterFiles, encoders: encoderFiles, facePacks } = of.folders;
  return new IPAdapterServiceCore(
    { adapters, vision, faces, references, adapterFiles, encoderFiles, facePacks },
    config,
  );
}

function picture(seed: number): ReferenceImage {
  const random = seededRandom(seed);
  const data = Uint8Array.from({ length: 40 * 50 * 3 }, () => random() * 256);
  return new ReferenceImage({ kind: 'u8-hwc', data, shape: [40, 50, 3] });
}

async function failure(promise: Promise<unknown>): Promise<BridgeError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof BridgeError)) throw new Error(`not an error of the catalogue: ${String(error)}`);
  return error;
}

describe('IPAdapterService', () => {
  it('finds the encoder that an adapter was trained with by content, whatever it is called', async () => {
    const service = serviceOf({ adapter: 'x.safetensors' });
    await service.loadIPAdapter();
    const encoder = await service.loadClipVision();
    expect(encoder.path).toMatch(/sub[\\/]model\.safetensors$/);
    expect(service.getEmbeddingDim()).toBe(36);
    await service.loadIPAdapter('y.safetensors');
    expect(service.getEmbeddingDim()).toBe(48);
  });

  it('takes the encoder that it is given, and refuses one that does not fit with the reason', async () => {
    const right = await tree.folders.encoders.resolve('sub/model.safetensors');
    expect((await serviceOf({ adapter: 'x.safetensors', clipVisionPath: right }).loadClipVision()).path).toBe(right);
    const wrong = await tree.folders.encoders.resolve('2.safetensors');
    const error = await failure(serviceOf({ adapter: 'x.safetensors', clipVisionPath: wrong }).loadClipVision());
    expect(error.code).toBe('PAIR_MISMATCH');
    expect(error.message).toMatch(/projects from 36, this encoder gives \d+/);
  });

  it('keeps features on the reference and does not encode it again', async () => {
    const service = serviceOf({ adapter: 'x.safetensors' });
    const one = picture(1);
    const [first, second] = await service.extractFeaturesBatch([one, picture(2)]);
    expect(one.features).toBe(first);
    expect(await service.extractFeatures(one)).toBe(first);
    expect([...(first?.image?.data ?? [])]).not.toEqual([...(second?.image?.data ?? [])]);
    // Another adapter wants other features of the same picture.
    await service.loadIPAdapter('y.safetensors');
    expect((await service.extractFeatures(one)).image?.shape).toEqual([1, 257, 48]);
  });

  it('blends references by weight and projects them, both halves, with keys and values', async () => {
    const service = serviceOf({ adapter: 'y.safetensors' });
    const embeds = await service.blend([picture(1), picture(2)], { combine: 'average' });
    const { cond, uncond } = await service.project(embeds, { layers: 'all' });
    expect(cond.tokens.shape).toEqual([1, 16, 24]);
    expect(uncond.tokens.shape).toEqual([1, 16, 24]);
    expect([...cond.layers.keys()]).toEqual([1, 3]);
    expect(cond.layers.get(3)?.keys.shape).toEqual([1, 16, 40]);
    expect([...cond.tokens.data]).not.toEqual([...uncond.tokens.data]);
  });

  it('finds faces for adapters that want them', async () => {
    const service = serviceOf({ adapter: 'plusv2/z.safetensors' });
    const { data } = squares(640, 640, [{ x: 320, y: 320, side: 16, color: [255, 0, 0] }]);
    const reference = new ReferenceImage({ kind: 'u8-hwc', data, shape: [640, 640, 3] });
    const features = await service.extractFeatures(reference);
    expect(features.face?.shape).toEqual([1, 1, 32]);
    expect(service.adapter?.variant).toBe('faceid_plus_v2');
  });

  it('says what was looked for and where when an encoder, an adapter or a face pack is missing', async () => {
    await using poor = await createAdapterTree({
      encoders: { 'some.safetensors': 'clip-l-tiny.safetensors' },
      adapters: { 'x.safetensors': 'base-sd15.safetensors', 'f.safetensors': 'faceid-sd15.safetensors' },
    });
    const encoder = await failure(serviceOf({ adapter: 'x.safetensors' }, poor).extractFeatures(picture(1)));
    expect(encoder.code).toBe('MODEL_NOT_FOUND');
    expect(encoder.message).toContain('image_embeds [B, 36]');
    expect(encoder.message).toContain(join(poor.root, 'models', 'clip_vision'));
    expect(encoder.message).toMatch(/some\.safetensors.*: the adapter projects from 36, this encoder gives/);
    const adapter = await failure(serviceOf({}, poor).loadIPAdapter('nothing.safetensors'));
    expect(adapter.code).toBe('MODEL_NOT_FOUND');
    expect(adapter.message).toContain('x.safetensors');
    expect((await failure(serviceOf({}, poor).loadIPAdapter())).message).toContain('f.safetensors, x.safetensors');
    const pack = await failure(serviceOf({ adapter: 'f.safetensors' }, poor).extractFeatures(picture(1)));
    expect(pack.code).toBe('MODEL_NOT_FOUND');
    expect(pack.message).toContain(join(poor.root, 'models', 'insightface'));
    expect((await failure(serviceOf({}, poor).loadIPAdapter('../clip_vision/some.safetensors'))).code).toBe(
      'MODEL_NOT_FOUND',
    );
  });

  it('does not take an encoder, a LoRA or an empty file for an adapter', async () => {
    const error = await failure(adapters.open(await tree.folders.encoders.resolve('2.safetensors')));
    expect(error.code).toBe('ADAPTER_UNKNOWN');
    expect(error.message).toContain('to_k_ip');
  });

  it('says so when it is moved to a device that is not there', async () => {
    const service = serviceOf({ adapter: 'x.safetensors' }).to('cuda');
    expect((await failure(service.extractFeatures(picture(1)))).code).toBe('DEVICE_UNAVAILABLE');
    expect((await service.to('cpu').extractFeatures(picture(1))).image?.shape).toEqual([1, 36]);
  });
});

describe('files of embeds', () => {
  it('come back as they were saved, with where they came from', async () => {
    const service = serviceOf({ adapter: 'y.safetensors' });
    const pair = {
      adapter: await service.loadIPAdapter(),
      encoder: await service.loadClipVision(),
    };
    const images = f32Tensor([2, 8, 8, 3], new Float32Array(384).fill(0.5));
    const embeds = await references.encode(pair, [{ images, weight: 0.5 }]);
    const bytes = serializeEmbeds(embeds);
    const path = join(tree.root, 'embeds.safetensors');
    await writeFile(path, bytes);
    const back = await readEmbeds(path);
    expect(back).toEqual(embeds);
    expect(parseEmbeds(bytes, 'body')).toEqual(embeds);
    expect(back.provenance.adapter).toMatchObject({ name: 'y.safetensors', variant: 'plus' });
    expect(back.provenance.encoder?.name).toBe('2.safetensors');
    expect(back.provenance.images[0]).toMatch(/^[0-9a-f]{64}$/);
    expect(back.provenance.settings).toMatchObject({ weights: [0.5, 0.5], combine: 'concat', precision: 'comfy' });
  });

  it('of one tensor alone are read as IPAdapter_plus writes them, their negative made when it is needed', async () => {
    const service = serviceOf({ adapter: 'x.safetensors' });
    const path = join(tree.root, 'plain.safetensors');
    await writeFile(path, serializeSafetensors({ data: f32Tensor([2, 36], new Float32Array(72).fill(0.25)) }));
    const embeds = await readEmbeds(path);
    expect(embeds.uncond).toBeUndefined();
    const { uncond } = await service.project(embeds);
    expect(uncond.tokens.shape).toEqual([2, 4, 40]);
  });

  it.each(['embeds', 'embeds-fp16', 'hidden'])(
    '%s.ipadpt, written by torch.save, is read without its pickle being run',
    async (name) => {
      const files = join(import.meta.dirname, 'ipadpt');
      const expected = f32Of(readGoldenTensors(join(files, `${name}.safetensors`)), 'embeds');
      const { cond, uncond } = await readEmbeds(join(files, `${name}.ipadpt`));
      expect(maxAbsDiff(cond.image, expected)).toBe(0);
      expect(uncond).toBeUndefined();
    },
  );

  it('that are none are refused, hostile ones too', async () => {
    const folder = join(tree.root, 'bad');
    await mkdir(folder, { recursive: true });
    const one = f32Tensor([1, 36], new Float32Array(36));
    const good = parseSafetensors(
      serializeEmbeds({ kind: 'ipadapter_embeds', cond: { image: one }, provenance: { images: [], settings: {} } }),
    ).metadata;
    const metadata = Object.fromEntries(good);
    const cases: Record<string, Uint8Array> = {
      'two tensors': serializeSafetensors({ a: one, b: one }),
      'no tensor': serializeSafetensors({}),
      'a vector': serializeSafetensors({ a: f32Tensor([3], new Float32Array(3)) }),
      'whole numbers': serializeSafetensors({ a: { dtype: 'I32', shape: [1, 2], data: new Int32Array(2) } }),
      'not a number': serializeSafetensors({ a: f32Tensor([1, 2], Float32Array.of(NaN, 1)) }),
      'no conditional part': serializeSafetensors({ 'uncond.image': one }, metadata),
      'another version': serializeSafetensors({ 'cond.image': one }, { ...metadata, version: '99' }),
      'provenance that is no JSON': serializeSafetensors({ 'cond.image': one }, { ...metadata, provenance: '{' }),
      'provenance of another form': serializeSafetensors({ 'cond.image': one }, { ...metadata, provenance: '[]' }),
    };
    for (const [what, bytes] of Object.entries(cases)) {
      const path = join(folder, `${what}.safetensors`);
      await writeFile(path, bytes);
      expect((await failure(readEmbeds(path))).code, what).toBe('EMBEDS_INVALID');
    }
    await rm(folder, { recursive: true });
  });
});
