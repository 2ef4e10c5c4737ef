/**
 * Combining, tiles, weight types and mask tokens against the reference extension. Format: golden README, "ipadapter/".
 * Tolerances: 1e-5; tiles 1e-2 and cosine distance 1e-6, since they come from pictures.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import * as z from 'zod';
import { combineRows, COMBINE_MODES } from '../../../src/adapter/combine.js';
import { AdapterEngine } from '../../../src/adapter/index.js';
import { maskTokens } from '../../../src/adapter/masks.js';
import { encodePictures } from '../../../src/adapter/pictures.js';
import { attentionPlaces, transformerWeights, WEIGHT_TYPES } from '../../../src/adapter/weight-types.js';
import { cosineDistance, maxAbsDiff } from '../../support/compare.js';
import { f32Of, readGoldenTensors, u8Of } from '../../support/golden-tensors.js';
import { startEngine } from '../../support/inference.js';
import { goldenAdapterRoot } from './golden-folder.js';

const TOLERANCE = 1e-5;
const TOKEN_TOLERANCE = 2e-5;
const TILE_TOLERANCE = 1e-2;
const folder = join(goldenAdapterRoot, 'ipadapter');
const expectedFolder = join(folder, 'expected');
const { engine: vision, inference } = startEngine();
afterAll(() => inference[Symbol.asyncDispose]());

describe('combining pictures', () => {
  const expected = readGoldenTensors(join(expectedFolder, 'combine.safetensors'));
  const goldenName = (mode: string): string => mode.replace(' ', '_');

  it.each(COMBINE_MODES)('%s of image embeds and of hidden states equals the reference', (mode) => {
    for (const form of ['pooled', 'tokens']) {
      const got = combineRows(f32Of(expected, `${form}.in`), mode);
      expect(maxAbsDiff(got, f32Of(expected, `${form}.${goldenName(mode)}`)), form).toBeLessThan(TOLERANCE);
    }
  });

  const adapters = new AdapterEngine(inference);
  const projected = COMBINE_MODES.filter((mode) => expected.has(`base-sd15.${goldenName(mode)}.cond`));
  it.each(projected)('%s gives the tokens of the reference', async (mode) => {
    const name = goldenName(mode);
    const model = await adapters.open(join(folder, 'models', 'base-sd15.safetensors'));
    for (const [input, output] of [
      ['in', 'cond'],
      ['uncond_in', 'uncond'],
    ]) {
      const { tokens } = await adapters.project(model, { image: f32Of(expected, `base-sd15.${name}.${input ?? ''}`) });
      expect(maxAbsDiff(tokens, f32Of(expected, `base-sd15.${name}.${output ?? ''}`)), output).toBeLessThan(
        TOKEN_TOLERANCE,
      );
    }
  });
});

describe('tiles', () => {
  const expected = readGoldenTensors(join(expectedFolder, 'tiles.safetensors'));
  const cases = [...expected.keys()].flatMap((name) => {
    const match = /^(b\d)\.tiles(\d+)\.ratio([\d.]+)\.(image_embeds|penultimate_hidden_states)$/.exec(name);
    return match === null ? [] : [{ name, group: match[1] ?? '', tiles: Number(match[2]), ratio: Number(match[3]) }];
  });
  it.each(cases)('$name equals the reference', async ({ name, group, tiles, ratio }) => {
    const model = await vision.open(join(goldenAdapterRoot, 'models', 'clip-h-tiny.safetensors'));
    const output = name.endsWith('image_embeds') ? 'image_embeds' : 'penultimate_hidden_states';
    const images = u8Of(expected, `${group}.image_u8`);
    const got = await encodePictures(vision, model, images, { output, tiles, ratio, precision: 'fp32' });
    const wanted = f32Of(expected, name);
    expect(maxAbsDiff(got, wanted)).toBeLessThan(TILE_TOLERANCE);
    expect(cosineDistance(got.data, wanted.data)).toBeLessThan(1e-6);
  });
});

const tableSchema = z.object({
  model: z.enum(['sd15', 'sdxl']),
  weight_type: z.enum(WEIGHT_TYPES),
  weight: z.number(),
  weight_composition: z.number().optional(),
  style_boost: z.number().optional(),
  composition_boost: z.number().optional(),
  cond_slot: z.array(z.number()),
  uncond_slot_over_quarter: z.array(z.number()),
});
const place = z.tuple([z.tuple([z.string(), z.number()]).rest(z.number()), z.number()]);
const weights = z
  .object({ tables: z.array(tableSchema), key_numbering_sd15: z.array(place), key_numbering_sdxl: z.array(place) })
  .parse(JSON.parse(readFileSync(join(folder, 'weight-types.json'), 'utf8')));

describe('weight types', () => {
  it.each(weights.tables)('$model $weight_type with weight $weight equals what was measured', (table) => {
    const got = transformerWeights({
      model: table.model,
      type: table.weight_type,
      weight: table.weight,
      compositionWeight: table.weight_composition,
      styleBoost: table.style_boost,
      compositionBoost: table.composition_boost,
    });
    // Measured with values of 1 and 1/4: in a turned layer the conditional half sees nothing, the other one 4 times more.
    const conditional = got.map(({ weight = 0, isTurned }) => (isTurned ? 0 : weight));
    const unconditional = got.map(({ weight = 0, isTurned }) => (isTurned ? 4 * weight : weight));
    expect(got).toHaveLength(table.cond_slot.length);
    table.cond_slot.forEach((value, t) => {
      expect(conditional[t], `cond ${t}`).toBeCloseTo(value, 5);
      expect(unconditional[t], `uncond ${t}`).toBeCloseTo(table.uncond_slot_over_quarter[t] ?? NaN, 5);
    });
  });

  it('numbers layers as the reference does', () => {
    for (const model of ['sd15', 'sdxl'] as const) {
      const got = attentionPlaces(model).map(({ block, layer }) => [[...block], layer]);
      expect(got).toEqual(weights[`key_numbering_${model}`]);
    }
  });

  it('takes a list of layers in place of the type, and says which entry cannot be read', () => {
    const listed = transformerWeights({ model: 'sdxl', type: 'ease in', weight: 2, layerWeights: '0:0.5, 3:1.5' });
    expect(listed.flatMap(({ weight }, t) => (weight === undefined ? [] : [[t, weight]]))).toEqual([
      [0, 1],
      [3, 3],
    ]);
    expect(() => transformerWeights({ model: 'sdxl', type: 'linear', weight: 1, layerWeights: '11:1' })).toThrow(
      /11:1/,
    );
  });
});

describe('masks as attention sees them', () => {
  const expected = readGoldenTensors(join(expectedFolder, 'attention.safetensors'));
  const cases = [...expected.keys()].flatMap((name) => {
    const match = /^mask_tokens\.(\d+)x(\d+)\.(\d+)$/.exec(name);
    return match === null ? [] : [{ name, sizes: match.slice(1).map(Number) }];
  });
  it.each(cases)('$name equals the reference', ({ name, sizes }) => {
    const [latentHeight = 0, latentWidth = 0, tokens = 0] = sizes;
    const got = maskTokens(f32Of(expected, 'mask'), { latentHeight, latentWidth, tokens, batch: 1 });
    expect(maxAbsDiff({ ...got, shape: [tokens] }, f32Of(expected, name))).toBeLessThan(TOLERANCE);
  });
});
