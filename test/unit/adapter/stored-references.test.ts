import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import {
  AdapterEngine,
  IPAdapterServiceCore,
  ReferenceEncoder,
  ReferenceImage,
  type IPAdapterConfig,
  type ProjectedEmbeds,
} from '../../../src/adapter/index.js';
import { FaceEngine } from '../../../src/faces/index.js';
import type { FeatureStore, FeatureStoreStats } from '../../../src/store/index.js';
import { f32Tensor, type F32Tensor } from '../../../src/tensor/tensor.js';
import { createAdapterTree, type AdapterTree } from '../../support/adapter-tree.js';
import { maxAbsDiff } from '../../support/compare.js';
import { startEngine, type TestEngine } from '../../support/inference.js';
import { seededRandom } from '../../support/random.js';

/** Processes start slowly where many do at once. */
const WAIT_MS = 60_000;
/** Pictures that are encoded together differ from those that are encoded alone in the last bits. */
const TOLERANCE = 1e-5;
let tree: AdapterTree;
let folder: string;
const started = startEngine({ maxFeatureBytes: 1e8 });
const plain = startEngine();

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-stored-'));
  tree = await createAdapterTree({
    encoders: { 'a.safetensors': 'clip-h-tiny.safetensors' },
    adapters: { 'base.safetensors': 'base-sd15.safetensors', 'plus.safetensors': 'plus-sd15.safetensors' },
  });
});
afterAll(async () => {
  await started[Symbol.asyncDispose]();
  await plain[Symbol.asyncDispose]();
  await tree[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

function serviceOf(services: TestEngine, config: IPAdapterConfig = {}): IPAdapterServiceCore {
  const { engine: vision, inference } = services;
  const adapters = new AdapterEngine(inference, services);
  const faces = new FaceEngine(inference);
  const { adapters: adapterFiles, encoders: encoderFiles, facePacks } = tree.folders;
  const references = new ReferenceEncoder(adapters, vision, faces);
  return new IPAdapterServiceCore(
    { adapters, vision, faces, references, adapterFiles, encoderFiles, facePacks },
    { adapter: 'plus.safetensors', ...config },
  );
}

async function pngFile(seed: number, side = 60): Promise<string> {
  const random = seededRandom(seed);
  const path = join(folder, `${seed}-${side}.png`);
  const raw = { width: side, height: side, channels: 3 } as const;
  const levels = Uint8Array.from({ length: side * side * 3 }, () => random() * 256);
  await writeFile(path, await sharp(levels, { raw }).png().toBuffer());
  return path;
}

const referenceTo = (path: string, weight = 1): ReferenceImage =>
  new ReferenceImage({ kind: 'file', path }, { weight });
const featureStore = async (): Promise<FeatureStore> => (await started.store()).features;
const stats = async (): Promise<FeatureStoreStats> => (await featureStore()).stats();

type Blend = Parameters<IPAdapterServiceCore['blend']>[1];

async function project(
  service: IPAdapterServiceCore,
  references: readonly ReferenceImage[],
  options?: Blend,
): Promise<ProjectedEmbeds> {
  return service.project(await service.blend(references, options));
}

const bytesOf = ({ cond, uncond }: ProjectedEmbeds): Buffer =>
  Buffer.concat([cond, uncond].map(({ tokens }) => Buffer.from(tokens.data.slice().buffer)));

/** Projects until nothing is looked for in vain: the weights are known, and all is kept. */
async function projectUntilKept(
  service: IPAdapterServiceCore,
  list: () => ReferenceImage[],
  options?: Blend,
): Promise<ProjectedEmbeds> {
  let found: ProjectedEmbeds | undefined;
  await vi.waitUntil(
    async () => {
      const { misses, hits } = await stats();
      found = await project(service, list(), options);
      const now = await stats();
      return now.misses === misses && now.hits > hits;
    },
    { timeout: WAIT_MS, interval: 20 },
  );
  if (found === undefined) throw new Error('nothing was projected');
  return found;
}

/** Names under which the features of a file and of a black picture are kept. */
async function featureNames(service: IPAdapterServiceCore, path: string): Promise<string[]> {
  const model = service.encoder ?? (await service.loadClipVision());
  const size = model.config.imageSize;
  const black = f32Tensor([1, size, size, 3], new Float32Array(size * size * 3));
  const output = 'penultimate_hidden_states';
  const named = await Promise.all([
    started.engine.name(model, { kind: 'file', path }, { output }),
    started.engine.name(model, black, { output }),
  ]);
  return named.flatMap(({ names }) => names ?? []);
}

describe('a reference whose tokens are kept', () => {
  it(
    'is projected without its features being read: they may be garbage by then',
    async () => {
      const service = serviceOf(started);
      const path = await pngFile(1);
      const expected = await projectUntilKept(service, () => [referenceTo(path)]);
      const store = await featureStore();
      const names = await featureNames(service, path);
      expect(names).toHaveLength(2);
      for (const name of names) {
        expect(store.has(name)).toBe(true);
        await store.put(name, Uint8Array.of(1));
      }
      const again = await project(serviceOf(started), [referenceTo(path)]);
      expect(bytesOf(again).equals(bytesOf(expected))).toBe(true);
      await store.clear();
      const exact = await project(serviceOf(plain), [referenceTo(path)]);
      expect(maxAbsDiff(again.cond.tokens, exact.cond.tokens)).toBeLessThan(TOLERANCE);
      expect(maxAbsDiff(again.uncond.tokens, exact.uncond.tokens)).toBeLessThan(TOLERANCE);
    },
    WAIT_MS,
  );

  it(
    'costs five small reads: of the name of its picture, of two hashes and of the tokens of both halves',
    async () => {
      const path = await pngFile(2);
      const service = serviceOf(started);
      await projectUntilKept(service, () => [referenceTo(path)]);
      const before = await stats();
      await project(service, [referenceTo(path)]);
      const { hits, misses } = await stats();
      expect({ hits: hits - before.hits, misses: misses - before.misses }).toEqual({ hits: 5, misses: 0 });
    },
    WAIT_MS,
  );

  it(
    'shares its tokens with no other weight, combination, negative, order, adapter or precision',
    async () => {
      const [one, two, against] = [await pngFile(3), await pngFile(4, 80), await pngFile(5)];
      const variants: [string, () => ReferenceImage[], Blend, IPAdapterConfig][] = [
        ['one', () => [referenceTo(one)], {}, {}],
        ['the other', () => [referenceTo(two)], {}, {}],
        ['another weight', () => [referenceTo(one, 0.5)], {}, {}],
        ['both', () => [referenceTo(one), referenceTo(two)], {}, {}],
        ['both, the other way round', () => [referenceTo(two), referenceTo(one)], {}, {}],
        ['average', () => [referenceTo(one), referenceTo(two)], { combine: 'average' }, {}],
        ['weighed average', () => [referenceTo(one), referenceTo(two, 0.5)], { combine: 'average' }, {}],
        ['subtract', () => [referenceTo(one), referenceTo(two)], { combine: 'subtract' }, {}],
        ['subtract, turned', () => [referenceTo(two), referenceTo(one)], { combine: 'subtract' }, {}],
        [
          'a negative picture',
          () => [referenceTo(one)],
          { negative: { kind: 'images', images: { kind: 'file', path: against } } },
          {},
        ],
        [
          'noise',
          () => [referenceTo(one)],
          { negative: { kind: 'noise', noise: { kind: 'fade', strength: 1, blur: 0 } } },
          {},
        ],
        ['another adapter', () => [referenceTo(one)], {}, { adapter: 'base.safetensors' }],
        ['another precision', () => [referenceTo(one)], {}, { precision: 'fp32' }],
      ];
      const seen = new Map<string, string>();
      for (const [name, list, options, config] of variants) {
        const kept = await projectUntilKept(serviceOf(started, config), list, options);
        const again = await project(serviceOf(started, config), list(), options);
        expect(bytesOf(again).equals(bytesOf(kept)), name).toBe(true);
        const exact = await project(serviceOf(plain, config), list(), options);
        expect(maxAbsDiff(kept.cond.tokens, exact.cond.tokens), name).toBeLessThan(TOLERANCE);
        expect(maxAbsDiff(kept.uncond.tokens, exact.uncond.tokens), name).toBeLessThan(TOLERANCE);
        const content = bytesOf(kept).toString('base64');
        // In exact arithmetic, fp32 is what comfy is for this encoder: nothing of it is stored in halves.
        if (name !== 'another precision')
          expect(seen.get(content), `${name} has the tokens of another`).toBeUndefined();
        seen.set(content, name);
      }
    },
    WAIT_MS,
  );

  it(
    'goes by its values as soon as somebody has looked at them',
    async () => {
      const service = serviceOf(started);
      const path = await pngFile(6);
      const untouched = await projectUntilKept(service, () => [referenceTo(path)]);
      const embeds = await service.blend([referenceTo(path)]);
      const image: F32Tensor | undefined = embeds.cond.image;
      image?.data.fill(0.25);
      const changed = await service.project(embeds);
      expect(bytesOf(changed).equals(bytesOf(untouched))).toBe(false);
      const exact = await serviceOf(plain).project({
        ...embeds,
        cond: { image: f32Tensor(image?.shape ?? [], new Float32Array(image?.data.length ?? 0).fill(0.25)) },
      });
      expect(maxAbsDiff(changed.cond.tokens, exact.cond.tokens)).toBeLessThan(TOLERANCE);
      // Nobody else's features were written into.
      const again = await project(service, [referenceTo(path)]);
      expect(bytesOf(again).equals(bytesOf(untouched))).toBe(true);
    },
    WAIT_MS,
  );

  it(
    'is encoded again where all has left the store since it was blended, and says so to those who look at its features',
    async () => {
      const service = serviceOf(started);
      const path = await pngFile(7);
      const expected = await projectUntilKept(service, () => [referenceTo(path)]);
      const [extracted, embeds] = [referenceTo(path), await service.blend([referenceTo(path)])];
      const features = await service.extractFeatures(extracted);
      await (await featureStore()).clear();
      const again = await service.project(embeds);
      expect(maxAbsDiff(again.cond.tokens, expected.cond.tokens)).toBeLessThan(TOLERANCE);
      await (await featureStore()).clear();
      expect(() => embeds.cond.image).toThrow(/have left the feature store.*Blend them again/);
      expect(features.image?.shape).toEqual([1, 257, 48]);
    },
    WAIT_MS,
  );
});
