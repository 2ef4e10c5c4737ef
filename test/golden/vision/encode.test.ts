/**
 * Every encoder of the golden folder against what ComfyUI computed with it. Format: golden README, "models/ and
 * expected/". Tolerances: 5e-5 absolute; end to end 5e-3 and 3e-2, since pictures may differ by rounding ties.
 */
import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import sharp from 'sharp';
import { afterAll, describe, expect, it } from 'vitest';
import * as z from 'zod';
import { parseSafetensors, readSafetensorsHeader, type TensorInfo } from '../../../src/formats/index.js';
import { decodeImage } from '../../../src/image/index.js';
import { f32Tensor, type F32Tensor, type Tensor, type U8Tensor } from '../../../src/tensor/tensor.js';
import {
  OUTPUT_FIELDS,
  resolveVisionModel,
  type OutputName,
  type VisionModel,
  type VisionOutput,
} from '../../../src/vision/index.js';
import { chooseByKeys } from '../../../src/vision/model.js';
import { nameWeights } from '../../../src/vision/weights.js';
import { cosineDistance, maxAbsDiff } from '../../support/compare.js';
import { startEngine } from '../../support/inference.js';
import { goldenVisionFolder, listed, readCases } from './golden-folder.js';

const TOLERANCE = 5e-5;
const E2E_EMBEDS_TOLERANCE = 5e-3;
const E2E_PENULTIMATE_TOLERANCE = 3e-2;

const models = join(goldenVisionFolder, 'models');
const expectedFolder = join(goldenVisionFolder, 'expected');
const started = startEngine();
const { engine } = started;
afterAll(() => started[Symbol.asyncDispose]());

const readContent = (name: string): ReturnType<typeof parseSafetensors> =>
  parseSafetensors(readFileSync(join(expectedFolder, `${name}.safetensors`)), name);

function f32(tensors: ReadonlyMap<string, Tensor>, name: string): F32Tensor | undefined {
  const tensor = tensors.get(name);
  return tensor?.dtype === 'F32' ? tensor : undefined;
}

/** Normalized in fp32, step by step, as the README says. */
function normalize({ shape, data }: U8Tensor, { config }: VisionModel): F32Tensor {
  const [batch = 0, , height = 0, width = 0] = shape;
  const out = new Float32Array(data.length);
  const area = height * width;
  for (let i = 0; i < data.length; i += 1) {
    const channel = Math.floor(i / area) % 3;
    const level = Math.fround((data[i] ?? 0) / 255);
    const centered = Math.fround(level - Math.fround(config.imageMean[channel] ?? 0));
    out[i] = centered / Math.fround(config.imageStd[channel] ?? 1);
  }
  return f32Tensor([batch, 3, height, width], out);
}

/** Pixels of the listed pictures as u8 `[B, 3, S, S]`. */
async function planarPictures(files: readonly string[]): Promise<U8Tensor> {
  const planes: Uint8Array[] = [];
  let side = 0;
  for (const file of files) {
    const { data, info } = await sharp(join(goldenVisionFolder, 'preprocess', 'expected', file))
      .raw()
      .toBuffer({ resolveWithObject: true });
    side = info.width;
    const plane = new Uint8Array(data.length);
    for (let i = 0; i < data.length; i += 1) plane[(i % 3) * side * side + Math.floor(i / 3)] = data[i] ?? 0;
    planes.push(plane);
  }
  return { dtype: 'U8', shape: [files.length, 3, side, side], data: Buffer.concat(planes) };
}

/** Any group that has an expected output: `b1` and `b3` of the README, `raw`, and those of further cases. */
function groupsOf(expected: ReadonlyMap<string, Tensor>): string[] {
  const names = [...expected.keys()].map((key) => key.slice(0, key.indexOf('.')));
  return [...new Set(names)].filter((group) => Object.keys(OUTPUT_FIELDS).some((o) => expected.has(`${group}.${o}`)));
}

const names = listed(expectedFolder)
  .filter((file) => file.endsWith('.safetensors'))
  .map((file) => file.slice(0, -'.safetensors'.length))
  .filter((name) => existsSync(join(models, `${name}.safetensors`)));

/** Inputs of a case, from wherever the README puts them. */
async function inputOf(name: string, group: string, model: VisionModel): Promise<F32Tensor | undefined> {
  const { tensors, metadata } = readContent(name);
  const direct = f32(tensors, `${group}.pixel_values`);
  if (direct !== undefined) return direct;
  const u8 = tensors.get(`${group}.pixels_u8`);
  if (u8?.dtype === 'U8') return normalize(u8, model);
  const listed = metadata.get('pixels_from_png');
  if (listed !== undefined) {
    const files = picturesOf(JSON.parse(listed), group);
    return files === undefined ? undefined : normalize(await planarPictures(files), model);
  }
  // fp16 and bf16 variants share the inputs of the fp32 model.
  const base = name.replace(/\.(fp16|bf16)$/, '');
  return base === name ? undefined : inputOf(base, group, model);
}

function picturesOf(listed: unknown, group: string): readonly string[] | undefined {
  const parsed = z.record(z.string(), z.union([z.string(), z.array(z.string())])).parse(listed);
  const entry = parsed[group];
  return typeof entry === 'string' ? [entry] : entry;
}

describe.each(names)('%s', (name) => {
  const { tensors: expected } = readContent(name);
  const open = (): Promise<VisionModel> => engine.open(join(models, `${name}.safetensors`));

  for (const group of groupsOf(expected)) {
    const outputs = (Object.keys(OUTPUT_FIELDS) as OutputName[]).filter((output) => expected.has(`${group}.${output}`));

    it(`equals ComfyUI with exact weights on ${group}: ${outputs.join(', ')}`, async () => {
      const model = await open();
      const pixelValues = await inputOf(name, group, model);
      if (pixelValues === undefined) throw new Error(`no input for ${name} ${group}`);
      const got = await engine.encode(model, { pixelValues }, { precision: 'fp32', outputs });
      for (const output of outputs) expectNear(got, output, expected, `${group}.${output}`);
    });

    const rounded = (['image_embeds', 'penultimate_hidden_states'] as const).filter((output) =>
      expected.has(`${group}.comfy_default.${output}`),
    );
    if (rounded.length === 0) continue;
    it(`equals a default ComfyUI, which rounds weights, on ${group}: ${rounded.join(', ')}`, async () => {
      const model = await open();
      const pixelValues = await inputOf(name, group, model);
      if (pixelValues === undefined) throw new Error(`no input for ${name} ${group}`);
      const got = await engine.encode(model, { pixelValues }, { outputs: rounded });
      for (const output of rounded) expectNear(got, output, expected, `${group}.comfy_default.${output}`);
    });
  }
});

function expectNear(got: VisionOutput, output: OutputName, expected: ReadonlyMap<string, Tensor>, key: string): void {
  const reference = f32(expected, key);
  if (reference === undefined) throw new Error(`${key} is not f32`);
  expect(maxAbsDiff(got[OUTPUT_FIELDS[output]], reference), key).toBeLessThan(TOLERANCE);
}

const endToEnd = readCases(
  join(expectedFolder, 'e2e.json'),
  z.array(z.object({ model: z.string(), image: z.string(), crop: z.enum(['center', 'none']), key: z.string() })),
  [],
);

describe.runIf(endToEnd.length > 0)('from picture file to features', () => {
  const expected = endToEnd.length > 0 ? readContent('e2e').tensors : new Map<string, Tensor>();

  it.each(endToEnd)('equals LoadImage and CLIPVisionEncode: $key', async ({ model: file, image, crop, key }) => {
    const model = await engine.open(join(goldenVisionFolder, file));
    const { rgb } = await decodeImage(join(goldenVisionFolder, image));
    const got = await engine.encode(model, rgb, {
      crop,
      precision: 'fp32',
      outputs: ['image_embeds', 'penultimate_hidden_states'],
    });
    const embeds = f32(expected, `${key}/image_embeds`);
    const tokens = f32(expected, `${key}/penultimate_tokens_0_1_last`);
    const mean = f32(expected, `${key}/penultimate_mean_over_tokens`);
    if (embeds === undefined || tokens === undefined || mean === undefined || got.imageEmbeds === undefined)
      throw new Error(key);
    const gotEmbeds = got.imageEmbeds.shape.length === 3 ? pickTokens(got.imageEmbeds) : got.imageEmbeds;
    expect(maxAbsDiff(gotEmbeds, embeds)).toBeLessThan(E2E_EMBEDS_TOLERANCE);
    expect(cosineDistance(gotEmbeds.data, embeds.data)).toBeLessThan(1e-6);
    if (got.penultimateHiddenStates === undefined) throw new Error(key);
    expect(maxAbsDiff(pickTokens(got.penultimateHiddenStates), tokens)).toBeLessThan(E2E_PENULTIMATE_TOLERANCE);
    expect(maxAbsDiff(meanOverTokens(got.penultimateHiddenStates), mean)).toBeLessThan(E2E_PENULTIMATE_TOLERANCE);
  });
});

/** Tokens 0, 1 and the last of `[B, T, D]`. */
function pickTokens({ shape, data }: F32Tensor): F32Tensor {
  const [batch = 0, tokens = 0, width = 0] = shape;
  const out = new Float32Array(batch * 3 * width);
  for (let b = 0; b < batch; b += 1) {
    [0, 1, tokens - 1].forEach((token, i) => {
      out.set(data.subarray((b * tokens + token) * width, (b * tokens + token + 1) * width), (b * 3 + i) * width);
    });
  }
  return f32Tensor([batch, 3, width], out);
}

function meanOverTokens({ shape, data }: F32Tensor): F32Tensor {
  const [batch = 0, tokens = 0, width = 0] = shape;
  const out = new Float32Array(batch * width);
  for (let i = 0; i < data.length; i += 1) {
    const at = Math.floor(i / (tokens * width)) * width + (i % width);
    out[at] = (out[at] ?? 0) + (data[i] ?? 0) / tokens;
  }
  return f32Tensor([batch, width], out);
}

const choices = readCases(
  join(models, 'detect-cases.json'),
  z.array(
    z.object({ name: z.string(), keys: z.record(z.string(), z.array(z.number())), picked: z.string().nullable() }),
  ),
  [],
);

describe('the choice of a family', () => {
  it.each(choices)("takes ComfyUI's choice for $name: $picked", ({ keys, picked }) => {
    const infos = Object.entries(keys).map(([key, shape]): [string, TensorInfo] => [
      key,
      { name: key, dtype: 'F16', shape, offset: 0, sizeBytes: 0 },
    ]);
    const choice = chooseByKeys(nameWeights(new Map(infos)).ranges);
    if (picked === null || picked === 'None') expect(choice).toBeUndefined();
    // Where ComfyUI itself crashes, the refusal says why.
    else if (picked.startsWith('ERROR')) expect(choice).toHaveProperty('problem');
    else expect(choice).toMatchObject({ preset: { source: picked } });
  });

  it('is the same for a whole file, with every weight checked', async () => {
    for (const name of names) {
      const header = await readSafetensorsHeader(join(models, `${name}.safetensors`));
      expect(resolveVisionModel(header).model).toMatchObject({
        configuredBy: 'metadata',
        path: expect.stringContaining(basename(name)) as string,
      });
    }
  });
});
