/** Our nodes against ComfyUI's own, value by value. Format and tolerance: the README beside this file. */
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createBridge, type Bridge } from '../../../src/bridge.js';
import { silentLogger } from '../../../src/common/logger.js';
import { parseConfig } from '../../../src/config.js';
import { parseSafetensors } from '../../../src/formats/index.js';
import { nodeInfo, PythonError, type NodeContext, type NodeInputs } from '../../../src/graph/index.js';
import { parseJson, toPlain, writeJson } from '../../../src/protocol/json.js';
import type { F32Tensor } from '../../../src/tensor/tensor.js';

const golden = (name: string): Promise<Buffer> => readFile(join(import.meta.dirname, name));
const plain = (json: string): unknown => toPlain(parseJson(json));

const objectInfo = plain((await golden('object-info.json')).toString()) as Record<string, unknown>;
const { tensors, metadata } = parseSafetensors(await golden('images.safetensors'), 'images.safetensors');
const imageCases = JSON.parse(metadata.get('cases') ?? '') as { class_type: string; inputs: Record<string, unknown> }[];
const regexCases = JSON.parse((await golden('regex.json')).toString()) as (Record<string, unknown> & {
  pattern: string;
  expected: string | { error: string };
})[];

let base: string;
let bridge: Bridge;
beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), 'vision-bridge-nodes-'));
  bridge = await createBridge(
    parseConfig({ baseDirectory: base, dataDirectory: join(base, 'data'), port: 0 }),
    silentLogger,
  );
});
afterAll(async () => {
  await bridge[Symbol.asyncDispose]();
  await rm(base, { recursive: true, force: true });
});

async function run(classType: string, inputs: NodeInputs): Promise<unknown> {
  const context = { signal: new AbortController().signal } as NodeContext;
  return (await bridge.nodes.get(classType)?.execute(inputs, context))?.outputs?.[0];
}

/** Texts of our own stand for any. */
function withoutTexts(value: unknown, key = ''): unknown {
  if ((key === 'tooltip' || key === 'description') && value !== '') return '<text>';
  if (Array.isArray(value)) return value.map((entry) => withoutTexts(entry));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, withoutTexts(entry, name)]));
}

describe('object_info', () => {
  it.each(Object.keys(objectInfo))('of %s is that of ComfyUI, field by field and in its order', async (name) => {
    const node = bridge.nodes.get(name);
    if (node === undefined) throw new Error(`${name} is not served`);
    const ours = withoutTexts(plain(writeJson(await nodeInfo(node))));
    expect(ours).toEqual(objectInfo[name]);
    const order = (info: unknown): unknown => (info as { input: unknown; input_order: unknown }).input_order;
    expect(JSON.stringify(order(ours))).toBe(JSON.stringify(order(objectInfo[name])));
  });
});

describe('a node gives what ComfyUI gives', () => {
  it.each(imageCases.map((entry, index) => ({ ...entry, index, told: JSON.stringify(entry.inputs) })))(
    '$class_type $told',
    async ({ class_type: classType, inputs, index }) => {
      const isImage = (name: string): boolean => /^image\d?$/.test(name);
      const given = Object.fromEntries(
        Object.entries(inputs).map(([name, value]) => [
          name,
          isImage(name) ? tensors.get(`source.${String(value)}`) : value,
        ]),
      );
      const want = tensors.get(`case.${index}`) as F32Tensor;
      const got = (await run(classType, given)) as F32Tensor;
      expect(got.shape).toEqual(want.shape);
      const isMean = inputs['upscale_method'] === 'area' && inputs['width'] === 1 && inputs['height'] === 1;
      const isLoose = isMean || inputs['blend_mode'] === 'soft_light';
      const worst = want.data.reduce((most, value, i) => Math.max(most, Math.abs(value - (got.data[i] ?? NaN))), 0);
      expect(worst).toBeLessThanOrEqual(isLoose ? 1.2e-7 : 0);
    },
  );

  it.each(regexCases)('RegexReplace $pattern', async ({ pattern, expected, ...inputs }) => {
    const result = run('RegexReplace', { regex_pattern: pattern, ...inputs });
    if (typeof expected === 'string') {
      expect(await result).toBe(expected);
    } else {
      const error = await result.catch((reason: unknown) => reason);
      expect(error instanceof PythonError && error.pythonType).toBe(expected.error);
    }
  });
});

it('a pattern that backtracks without end is stopped', async () => {
  const endless = run('RegexReplace', { string: `${'a'.repeat(40)}b`, regex_pattern: '(a+)+$', replace: '' });
  await expect(endless).rejects.toMatchObject({ pythonType: 'TimeoutError' });
});

describe('a picture as a mask', () => {
  /** One row of two pixels: red with half alpha, and blue, opaque. */
  const levels = [255, 0, 0, 128, 0, 0, 51, 255];
  beforeAll(async () => {
    await mkdir(join(base, 'input'), { recursive: true });
    const image = sharp(Uint8Array.from(levels), { raw: { width: 2, height: 1, channels: 4 } });
    await image.png().toFile(join(base, 'input', 'two.png'));
  });

  it.each([
    ['alpha', [1 - Math.fround(128 / 255), 0]],
    ['red', [1, 0]],
    ['blue', [0, 51 / 255]],
  ])('has the channel %s', async (channel, values) => {
    const mask = (await run('LoadImageMask', { image: 'two.png', channel })) as F32Tensor;
    expect(mask.shape).toEqual([1, 1, 2]);
    expect([...mask.data]).toEqual([...Float32Array.from(values, (value) => Math.fround(value))]);
  });

  it('becomes a grey picture', async () => {
    const mask = await run('LoadImageMask', { image: 'two.png', channel: 'blue' });
    const grey = (await run('MaskToImage', { mask })) as F32Tensor;
    expect(grey.shape).toEqual([1, 1, 2, 3]);
    expect([...grey.data]).toEqual([0, 0, 0, ...Array.from({ length: 3 }, () => Math.fround(51 / 255))]);
  });
});

it('pictures larger than the limit are refused before they are made', async () => {
  const inputs = { width: 16384, height: 16384, batch_size: 4096, color: 0 };
  await expect(run('EmptyImage', inputs)).rejects.toMatchObject({ code: 'IMAGE_TOO_LARGE' });
});
