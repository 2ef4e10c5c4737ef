import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BridgeError } from '../../../src/common/errors.js';
import { AdapterEngine, ReferenceEncoder, type IPAdapterModel } from '../../../src/adapter/index.js';
import { FaceEngine, type FaceModel } from '../../../src/faces/index.js';
import { decodeImage } from '../../../src/image/index.js';
import { f32Tensor, u8Tensor, type F32Tensor, type U8Tensor } from '../../../src/tensor/tensor.js';
import type { VisionModel } from '../../../src/vision/index.js';
import { createAdapterTree, type AdapterTree } from '../../support/adapter-tree.js';
import { maxAbsDiff } from '../../support/compare.js';
import { squares, type Square } from '../../support/face-networks.js';
import { f32Of, readGoldenTensors } from '../../support/golden-tensors.js';
import { startEngine } from '../../support/inference.js';
import { seededRandom } from '../../support/random.js';

const golden = join(import.meta.dirname, '..', '..', 'golden', 'vision');
/** From picture files: rounding ties of the resampling show. */
const E2E_TOLERANCE = 5e-3;
const HIDDEN_TOLERANCE = 3e-2;

const { engine: vision, inference } = startEngine();
const adapters = new AdapterEngine(inference);
const faceEngine = new FaceEngine(inference);
const references = new ReferenceEncoder(adapters, vision, faceEngine);
let tree: AdapterTree;
let encoder: VisionModel;
let faces: FaceModel;
beforeAll(async () => {
  tree = await createAdapterTree({
    encoders: { 'a.safetensors': 'clip-h-tiny.safetensors', 'b.safetensors': 'clip-l-tiny.safetensors' },
    adapters: {
      'base.safetensors': 'base-sd15.safetensors',
      'plus.safetensors': 'plus-sd15.safetensors',
      'face-plusv2.safetensors': 'faceid-plusv2-sd15.safetensors',
      'face.safetensors': 'faceid-sd15.safetensors',
    },
    faceWidth: 32,
  });
  encoder = await vision.open(await tree.folders.encoders.resolve('a.safetensors'));
  faces = await faceEngine.open(await tree.folders.facePacks.resolve('buffalo_l'));
});
afterAll(async () => {
  await inference[Symbol.asyncDispose]();
  await tree[Symbol.asyncDispose]();
});

const open = async (name: string): Promise<IPAdapterModel> => adapters.open(await tree.folders.adapters.resolve(name));

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return error instanceof BridgeError ? error.code : String(error);
}

/** The left upper corner of a picture. */
function corner({ shape: [, , width = 0], data }: U8Tensor, side: number): U8Tensor {
  const out = new Uint8Array(side * side * 3);
  for (let row = 0; row < side; row += 1) {
    out.set(data.subarray(row * width * 3, (row * width + side) * 3), row * side * 3);
  }
  return u8Tensor([1, side, side, 3], out);
}

async function goldenPicture(name: string, side: number): Promise<U8Tensor> {
  return corner((await decodeImage(join(golden, 'preprocess', 'src', name))).rgb, side);
}

function randomPicture(seed: number, height = 60, width = 70, batch = 1): F32Tensor {
  const random = seededRandom(seed);
  return f32Tensor(
    [batch, height, width, 3],
    Float32Array.from({ length: batch * height * width * 3 }, () => random()),
  );
}

describe('from picture files to tokens, as the reference extension', () => {
  it('base: embeds, nothing against them, and both kinds of tokens', async () => {
    const expected = readGoldenTensors(join(golden, 'ipadapter', 'expected', 'base-sd15.safetensors'));
    const pair = { adapter: await open('base.safetensors'), encoder };
    const images = await goldenPicture('photo-640x480.jpg', 300);
    const embeds = await references.encode(pair, [{ images }], { precision: 'fp32' });
    expect(maxAbsDiff(embeds.cond.image, f32Of(expected, 'b1.in.cond'))).toBeLessThan(E2E_TOLERANCE);
    expect(maxAbsDiff(embeds.uncond?.image, f32Of(expected, 'b1.in.uncond'))).toBe(0);
    const { cond, uncond } = await references.project(pair, embeds, { layers: [1] });
    expect(maxAbsDiff(cond.tokens, f32Of(expected, 'b1.cond'))).toBeLessThan(E2E_TOLERANCE);
    expect(maxAbsDiff(uncond.layers.get(1)?.values, f32Of(expected, 'b1.v_uncond.1'))).toBeLessThan(2e-5);
  });

  it('plus: hidden states of three pictures in one batch, and a black picture against them', async () => {
    const expected = readGoldenTensors(join(golden, 'ipadapter', 'expected', 'inputs.safetensors'));
    const pair = { adapter: await open('plus.safetensors'), encoder };
    const list = await Promise.all(
      ['photo-640x480.jpg', 'rgba-400x300.png', 'odd-301x517.png'].map(async (name) => ({
        images: await goldenPicture(name, 190),
      })),
    );
    const embeds = await references.encode(pair, list, { precision: 'fp32' });
    expect(maxAbsDiff(embeds.cond.image, f32Of(expected, 'b3.penultimate_hidden_states'))).toBeLessThan(
      HIDDEN_TOLERANCE,
    );
    const black = f32Of(expected, 'b1.penultimate_hidden_states_black');
    const first = f32Tensor(black.shape, embeds.uncond?.image?.data.slice(0, black.data.length) ?? new Float32Array());
    expect(maxAbsDiff(first, black)).toBeLessThan(5e-5);
    expect(embeds.uncond?.image?.shape[0]).toBe(3);
    expect(embeds.provenance.images).toHaveLength(3);
  });
});

describe('references', () => {
  it('go from pictures to tokens as by way of embeds, and what stands against them stands against each', async () => {
    const pair = { adapter: await open('plus.safetensors'), encoder };
    const pictures = [1, 2, 3].map((seed) => ({ images: randomPicture(seed) }));
    const negative = { kind: 'images', images: randomPicture(4, 60, 70, 2) } as const;
    for (const options of [{}, { negative }]) {
      const embeds = await references.encode(pair, pictures, options);
      expect(embeds.uncond?.image?.shape[0]).toBe(3);
      const expected = await references.project(pair, embeds, { layers: [1] });
      const straight = await references.projectReferences(pair, pictures, { ...options, layers: [1] });
      for (const half of ['cond', 'uncond'] as const) {
        expect(straight[half].tokens.shape).toEqual(expected[half].tokens.shape);
        expect(maxAbsDiff(straight[half].tokens, expected[half].tokens)).toBeLessThan(1e-5);
        const [made, wanted] = [straight, expected].map((projected) => projected[half].layers.get(1));
        if (wanted === undefined) throw new Error('layer 1 was asked for');
        expect(maxAbsDiff(made?.keys, wanted.keys)).toBeLessThan(1e-5);
        expect(maxAbsDiff(made?.values, wanted.values)).toBeLessThan(1e-5);
      }
      const { tokens } = straight.uncond;
      const length = tokens.data.length / 3;
      const row = (i: number): number[] => [...tokens.data.subarray(i * length, (i + 1) * length)];
      expect(row(2)).toEqual(row(1));
      if ('negative' in options) expect(row(1)).not.toEqual(row(0));
      else expect(row(1)).toEqual(row(0));
    }
  });

  it('count by their weights, one for each picture of a batch', async () => {
    const pair = { adapter: await open('base.safetensors'), encoder };
    const images = randomPicture(1, 60, 70, 2);
    const plain = await references.encode(pair, [{ images }]);
    const weighed = await references.encode(pair, [{ images, weight: [0.5, -2] }]);
    const factor = [0.5, -2];
    weighed.cond.image?.data.forEach((value, i) => {
      expect(value).toBeCloseTo((factor[Math.floor(i / 36)] ?? NaN) * (plain.cond.image?.data[i] ?? NaN), 5);
    });
  });

  it('of several sizes keep their order', async () => {
    const pair = { adapter: await open('base.safetensors'), encoder };
    const pictures = [randomPicture(1), randomPicture(2, 40, 40), randomPicture(3)].map((images) => ({ images }));
    const together = await references.encode(pair, pictures);
    const alone = await Promise.all(pictures.map((picture) => references.encode(pair, [picture])));
    const joined = Float32Array.from(alone.flatMap(({ cond }) => [...(cond.image?.data ?? [])]));
    expect(maxAbsDiff(together.cond.image, f32Tensor([3, 36], joined))).toBeLessThan(1e-5);
  });

  it('combined, leave one row of either half', async () => {
    const pair = { adapter: await open('plus.safetensors'), encoder };
    const pictures = [{ images: randomPicture(1) }, { images: randomPicture(2) }];
    const embeds = await references.encode(pair, pictures, { combine: 'average' });
    expect(embeds.cond.image?.shape).toEqual([1, 257, 48]);
    expect(embeds.uncond?.image?.shape).toEqual([1, 257, 48]);
  });

  it('under a mask of ones are as they are, under one of zeros all alike, with one for each picture differ', async () => {
    const pair = { adapter: await open('base.safetensors'), encoder };
    const images = randomPicture(4, 60, 70, 2);
    const masked = async (mask: F32Tensor): Promise<F32Tensor | undefined> =>
      (await references.encode(pair, [{ images, mask }])).cond.image;
    const filled = (value: number, count = 1): F32Tensor =>
      f32Tensor([count, 30, 40], new Float32Array(count * 1200).fill(value));
    const plain = (await references.encode(pair, [{ images }])).cond.image;
    const whole = await masked(filled(1));
    const nothing = await masked(filled(0));
    expect(maxAbsDiff(whole, plain ?? filled(0))).toBeLessThan(1e-4);
    expect([...(nothing?.data.slice(0, 36) ?? [])]).toEqual([...(nothing?.data.slice(36) ?? [])]);
    const both = filled(1, 2);
    both.data.fill(0, 1200);
    const mixed = await masked(both);
    expect(
      maxAbsDiff(
        f32Tensor([36], mixed?.data.slice(0, 36) ?? new Float32Array()),
        f32Tensor([36], plain?.data.slice(0, 36) ?? new Float32Array()),
      ),
    ).toBeLessThan(1e-4);
    expect([...(mixed?.data.slice(36) ?? [])]).toEqual([...(nothing?.data.slice(36) ?? [])]);
    expect(await codeOf(masked(filled(1, 3)))).toBe('INVALID_REQUEST');
  });

  it('have what they are told against them: a picture, or noise that comes again', async () => {
    const pair = { adapter: await open('base.safetensors'), encoder };
    const reference = { images: randomPicture(1) };
    const negative = randomPicture(9);
    const against = await references.encode(pair, [reference], { negative: { kind: 'images', images: negative } });
    const own = await references.encode(pair, [{ images: negative }]);
    expect(maxAbsDiff(against.uncond?.image, own.cond.image ?? negative)).toBe(0);
    const noisy = async (strength: number): Promise<number[]> => {
      const noise = { kind: 'fade', strength, blur: 3 } as const;
      const embeds = await references.encode(pair, [reference], {
        negative: { kind: 'noise', noise, picture: negative },
      });
      return [...(embeds.uncond?.image?.data ?? [])];
    };
    expect(await noisy(0.5)).toEqual(await noisy(0.5));
    expect(await noisy(0.5)).not.toEqual(await noisy(1));
  });

  it('in tiles are two rows where there is one picture, and mixed where there are several', async () => {
    const pair = { adapter: await open('plus.safetensors'), encoder };
    const [one, two] = [randomPicture(1), randomPicture(2)];
    const tiled = { tiles: 2, ratio: 0.6 };
    const alone = (await references.encode(pair, [{ images: one }], tiled)).cond.image;
    expect(alone?.shape).toEqual([2, 257, 48]);
    const batch = f32Tensor([2, 60, 70, 3], Float32Array.from([...one.data, ...two.data]));
    const together = (await references.encode(pair, [{ images: batch }], tiled)).cond.image ?? batch;
    const apart = (await references.encode(pair, [{ images: one }, { images: two }], tiled)).cond.image;
    expect(maxAbsDiff(apart, together)).toBeLessThan(1e-5);
  });

  it('need an encoder that fits: the error says which', async () => {
    const other = await vision.open(await tree.folders.encoders.resolve('b.safetensors'));
    const adapter = await open('base.safetensors');
    const promise = references.encode({ adapter, encoder: other }, [{ images: randomPicture(1) }]);
    await expect(promise).rejects.toThrow(/projects from 36, this encoder gives/);
    expect(await codeOf(promise)).toBe('PAIR_MISMATCH');
    expect(await codeOf(references.encode({ adapter, encoder }, []))).toBe('INVALID_REQUEST');
  });
});

describe('references of faces', () => {
  const face: Square = { x: 160, y: 160, side: 16, color: [255, 0, 0] };
  const picture = squares(640, 640, [face]);

  it('FaceID-plus reads the normed embedding and the aligned crop, and has zeros and black against them', async () => {
    const pair = { adapter: await open('face-plusv2.safetensors'), encoder, faces };
    const embeds = await references.encode(pair, [{ images: picture }]);
    expect(embeds.cond.face?.shape).toEqual([1, 1, 32]);
    expect(embeds.cond.face?.data.reduce((sum, value) => sum + value * value, 0)).toBeCloseTo(1, 5);
    const [found] = await faceEngine.find(faces, picture, { cropSize: 224 });
    const crop = await references.encode({ adapter: await open('plus.safetensors'), encoder }, [
      { images: found?.crop ?? picture },
    ]);
    expect(maxAbsDiff(embeds.cond.image, crop.cond.image ?? f32Tensor([0], new Float32Array()))).toBe(0);
    expect(embeds.uncond?.face?.data.every((value) => value === 0)).toBe(true);
    expect(maxAbsDiff(embeds.uncond?.image, crop.uncond?.image ?? f32Tensor([0], new Float32Array()))).toBe(0);
    const one = await references.project(pair, embeds, { faceIdV2Scale: 0 });
    const two = await references.project(pair, embeds, { faceIdV2Scale: 1 });
    expect([...one.cond.tokens.data]).not.toEqual([...two.cond.tokens.data]);
  });

  it('a picture without a face is an error, and so is a recogniser of another width', async () => {
    const black = squares(640, 640, []);
    const plus = { adapter: await open('face-plusv2.safetensors'), encoder, faces };
    expect(await codeOf(references.encode(plus, [{ images: picture }, { images: black }]))).toBe('FACE_NOT_FOUND');
    const other = { adapter: await open('face.safetensors'), faces };
    expect(await codeOf(references.encode(other, [{ images: picture }]))).toBe('PAIR_MISMATCH');
    expect(await codeOf(references.encode({ adapter: other.adapter }, [{ images: picture }]))).toBe('INVALID_REQUEST');
  });
});
