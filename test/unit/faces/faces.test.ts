import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BridgeError } from '../../../src/common/errors.js';
import { alignFace, cropSimilarity, estimateSimilarity, resizeLinear } from '../../../src/faces/alignment.js';
import { decodeDetections } from '../../../src/faces/detection.js';
import { FaceEngine, faceSimilarity, normalizeEmbedding, type FaceModel } from '../../../src/faces/index.js';
import { readFaceNetwork } from '../../../src/faces/network.js';
import { f32Tensor, u8Tensor, type U8Tensor } from '../../../src/tensor/tensor.js';
import {
  detectorNetwork,
  EMBEDDING_WIDTH,
  LANDMARKS,
  recogniserNetwork,
  squares,
  writeFacePack,
} from '../../support/face-networks.js';
import { startEngine } from '../../support/inference.js';
import { seededRandom } from '../../support/random.js';

const { inference } = startEngine();
const engine = new FaceEngine(inference);
let folder = '';
let model: FaceModel;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-faces-'));
  await writeFacePack(join(folder, 'buffalo_l'));
  model = await engine.open(join(folder, 'buffalo_l'));
});
afterAll(async () => {
  await inference[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const RED = [255, 0, 0] as const;
const BLUE = [0, 0, 255] as const;
const red = (x: number, y: number, side = 16): { x: number; y: number; side: number; color: typeof RED } => ({
  x,
  y,
  side,
  color: RED,
});

async function failure(promise: Promise<unknown>): Promise<BridgeError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof BridgeError)) throw new Error(`not an error of the catalogue: ${String(error)}`);
  return error;
}

describe('a face network is known by its structure', () => {
  it('tells detector, recogniser and others apart, whatever they are called', () => {
    expect(model.name).toBe('buffalo_l');
    expect(model.detector).toMatch(/det_10g\.onnx$/);
    expect(model.recogniser).toMatch(/w600k_r50\.onnx$/);
  });

  it('reads names and shapes of inputs and outputs, free sides as -1', async () => {
    const { input, outputs, isSelfNormalizing } = await readFaceNetwork(model.detector);
    expect(input).toEqual({ name: 'input.1', shape: [-1, 3, -1, -1] });
    expect(outputs.map(({ name }) => name).slice(3, 6)).toEqual(['bbox_0', 'bbox_1', 'bbox_2']);
    expect(outputs[8]?.shape).toEqual([-1, 10]);
    expect(isSelfNormalizing).toBe(false);
  });

  it('says what was looked for and where when a pack lacks its recogniser', async () => {
    const lacking = join(folder, 'half');
    await writeFacePack(lacking);
    await rm(join(lacking, 'w600k_r50.onnx'));
    const error = await failure(engine.open(lacking));
    expect(error.code).toBe('MODEL_NOT_FOUND');
    expect(error.message).toContain('recogniser');
    expect(error.message).toContain(lacking);
    expect((await failure(engine.open(join(folder, 'nowhere')))).code).toBe('MODEL_NOT_FOUND');
  });

  it('refuses every truncated and garbled file with an error of the catalogue', async () => {
    const whole = recogniserNetwork();
    const random = seededRandom(11);
    const path = join(folder, 'garbled.onnx');
    for (let round = 0; round < 200; round += 1) {
      const bytes = Uint8Array.from(whole.subarray(0, Math.floor(random() * 400)));
      for (let i = 0; i < 3 && bytes.length > 0; i += 1) bytes[Math.floor(random() * bytes.length)] = random() * 256;
      await writeFile(path, bytes);
      expect((await failure(readFaceNetwork(path))).code).toBe('MODEL_FORMAT_UNSUPPORTED');
    }
  });
});

describe('finding faces', () => {
  it('puts boxes and landmarks where the anchors are', async () => {
    const [face] = await engine.find(model, squares(640, 640, [red(320, 208)]));
    expect(face?.box).toEqual([320 - 32, 208 - 32, 320 + 32, 208 + 32]);
    const expected = LANDMARKS.map((value, i) => (i % 2 === 0 ? 320 : 208) + value * 16);
    face?.landmarks.forEach((value, i) => {
      expect(value).toBeCloseTo(expected[i] ?? NaN, 3);
    });
  });

  it('gives places in the pixels of a picture that was scaled to fit', async () => {
    const [face] = await engine.find(model, squares(320, 240, [red(160, 80, 8)]));
    expect(face?.box.map(Math.round)).toEqual([144, 64, 176, 96]);
  });

  it('looks again at smaller sizes where nothing is found', async () => {
    // Covers no whole cell at 640 or 576 pixels, and one at 512.
    const [face] = await engine.find(model, squares(640, 640, [red(100, 200, 20)]));
    expect(face?.box.map(Math.round)).toEqual([60, 160, 140, 240]);
  });

  it('takes the best, the largest or a numbered face', async () => {
    const faint = { x: 64, y: 64, side: 32, color: [0, 0, 230] as const };
    const picture = squares(640, 640, [red(320, 320), faint]);
    const widths = async (choice: 'first' | 'largest' | number): Promise<number | undefined> => {
      const [face] = await engine.find(model, picture, { choice });
      return face === undefined ? undefined : face.box[2] - face.box[0];
    };
    expect(await widths('first')).toBe(64);
    expect(await widths('largest')).toBe(128);
    expect(await widths(1)).toBe(128);
    expect(await engine.findAll(model, picture)).toMatchObject([[{}, {}]]);
    expect((await failure(engine.find(model, picture, { choice: 2 }))).code).toBe('FACE_NOT_FOUND');
  });

  it('of four neighbouring detections keeps the two that overlap by 0.397, less than 0.4', async () => {
    const [faces = []] = await engine.findAll(model, squares(640, 640, [red(320, 320, 32)]));
    expect(faces.map(({ box: [left, top] }) => [left, top])).toEqual([
      [288, 288],
      [304, 304],
    ]);
  });

  it('is an error where there is none, naming the picture; never zeros', async () => {
    const black = squares(640, 640, []);
    const one = squares(640, 640, [red(320, 208)]);
    const both: U8Tensor = u8Tensor([2, 640, 640, 3], Buffer.concat([one.data, black.data]));
    const error = await failure(engine.find(model, both));
    expect(error.code).toBe('FACE_NOT_FOUND');
    expect(error.message).toContain('picture 2 of 2');
  });

  it('embeds one face alike wherever it is, and another one differently', async () => {
    const face = (x: number, y: number, colour: readonly [number, number, number]): U8Tensor =>
      squares(640, 640, [{ x: x - 40, y: y - 40, side: 30, color: colour }, red(x, y)]);
    const find = async (picture: U8Tensor): Promise<ReturnType<typeof f32Tensor>> =>
      (await engine.find(model, picture))[0]?.embedding ?? f32Tensor([1], Float32Array.of(0));
    const a = await find(face(160, 160, [255, 255, 255]));
    const b = await find(face(480, 320, [255, 255, 255]));
    const c = await find(face(160, 160, BLUE));
    expect(a.shape).toEqual([EMBEDDING_WIDTH]);
    expect(faceSimilarity(a, b)).toBeGreaterThan(0.9999);
    expect(faceSimilarity(a, c)).toBeLessThan(0.999);
    const normed = normalizeEmbedding(a).data;
    expect(normed.reduce((sum, value) => sum + value * value, 0)).toBeCloseTo(1, 5);
  });

  it('gives the aligned crop beside the embedding', async () => {
    const [face] = await engine.find(model, squares(640, 640, [red(320, 208)]), { cropSize: 224 });
    expect(face?.crop?.shape).toEqual([1, 224, 224, 3]);
    expect((await failure(engine.find(model, squares(64, 64, []), { cropSize: 100_000 }))).code).toBe(
      'INVALID_REQUEST',
    );
  });
});

it('refuses outputs that are not those of a detector', () => {
  const outputs = Array.from({ length: 9 }, () => f32Tensor([1], Float32Array.of(1)));
  expect(() => decodeDetections({ outputs, height: 640, width: 640, scale: 1 })).toThrow(/stride 8/);
  expect(detectorNetwork().length).toBeGreaterThan(0);
});

describe('alignment', () => {
  const landmarks = [120.3, 88.1, 170.9, 101.7, 139.2, 130.4, 112.6, 150.9, 150.1, 163.3];

  // Umeyama's estimate by singular values, in float64, of the same points.
  it.each([
    [112, [0.6350522319130782, -0.1638435231543235, -52.79324660561147, 14.037341994520965]],
    [224, [1.2701044638261565, -0.327687046308647, -105.58649321122294, 28.07468398904193]],
    [256, [1.2701044638261565, -0.327687046308647, -89.58649321122294, 28.07468398904193]],
    [336, [1.905156695739235, -0.4915305694629704, -158.3797398168344, 42.11202598356277]],
  ] as const)('of a crop of %i pixels is the similarity of least squares', (side, expected) => {
    cropSimilarity(landmarks, side).forEach((value, i) => {
      expect(value).toBeCloseTo(expected[i] ?? NaN, 9);
    });
  });

  it('never mirrors, even where the landmarks are those of a mirrored face', () => {
    const mirrored = [170.9, 101.7, 120.3, 88.1, 139.2, 130.4, 150.1, 163.3, 112.6, 150.9];
    const expected = [0.17473112499751606, -0.026517492255398397, 28.44039203547938, 53.40674963675848];
    cropSimilarity(mirrored, 112).forEach((value, i) => {
      expect(value).toBeCloseTo(expected[i] ?? NaN, 9);
    });
  });

  it('gives back the pixels themselves where shifting and turning by a quarter is all there is to do', () => {
    const side = 112;
    const random = seededRandom(2);
    const wanted = u8Tensor(
      [1, side, side, 3],
      Uint8Array.from({ length: side * side * 3 }, () => random() * 256),
    );
    // Turned by a quarter and put 20 pixels right and 7 down: (x, y) lies at (131 - y, x + 7).
    const turned = squares(160, 140, []);
    for (let y = 0; y < side; y += 1) {
      for (let x = 0; x < side; x += 1) {
        const pixel = wanted.data.subarray((y * side + x) * 3, (y * side + x) * 3 + 3);
        turned.data.set(pixel, ((x + 7) * 160 + 131 - y) * 3);
      }
    }
    const standard = [38.2946, 51.6963, 73.5318, 51.5014, 56.0252, 71.7366, 41.5493, 92.3655, 70.7299, 92.2041];
    const moved = standard.map((_none, i) => {
      const [u = 0, v = 0] = standard.slice(i - (i % 2));
      return i % 2 === 0 ? 131 - v : u + 7;
    });
    expect(alignFace(turned, moved, side)?.data).toEqual(wanted.data);
  });

  it('is black beyond the picture, and impossible where all landmarks are one point', () => {
    const white = u8Tensor([1, 8, 8, 3], new Uint8Array(192).fill(255));
    const crop = alignFace(white, landmarks, 112);
    expect(crop?.data.every((value) => value === 0)).toBe(true);
    expect(alignFace(white, Array<number>(10).fill(4), 112)).toBeUndefined();
    expect(estimateSimilarity([0, 0, 2, 0], [1, 1, 1, 5])).toEqual([0, 2, 1, 1]);
  });

  it('scales as OpenCV does: halves are means, the same size is the same picture', () => {
    const picture = u8Tensor([1, 2, 2, 3], Uint8Array.from([0, 10, 20, 100, 110, 120, 40, 50, 60, 200, 210, 221]));
    expect([...resizeLinear(picture, 1, 1).data]).toEqual([85, 95, 105]);
    expect(resizeLinear(picture, 2, 2).data).toEqual(picture.data);
  });
});
