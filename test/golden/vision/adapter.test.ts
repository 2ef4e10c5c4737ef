/**
 * Every IP-Adapter of the golden folder against what the reference extension computed with it: recognition, projection,
 * unconditional tokens, keys and values. Format: golden README, "ipadapter/". Tolerance: 2e-5 absolute.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import * as z from 'zod';
import {
  AdapterEngine,
  resolveAdapter,
  type AdapterFeatures,
  type IPAdapterModel,
} from '../../../src/adapter/index.js';
import type { ModelHeader, TensorInfo } from '../../../src/formats/index.js';
import { elementCount, type F32Tensor, type Tensor } from '../../../src/tensor/tensor.js';
import { maxAbsDiff } from '../../support/compare.js';
import { f32Of, readGoldenTensors } from '../../support/golden-tensors.js';
import { startEngine } from '../../support/inference.js';
import { goldenAdapterRoot } from './golden-folder.js';

const TOLERANCE = 2e-5;
const folder = join(goldenAdapterRoot, 'ipadapter');
const { inference } = startEngine();
const engine = new AdapterEngine(inference);
afterAll(() => inference[Symbol.asyncDispose]());

const indexSchema = z.object({
  adapters: z.array(
    z.object({
      name: z.string(),
      model: z.string(),
      expected: z.string(),
      kind: z.string(),
      s_scale: z.number().nullish(),
      inputs_in_inputs_safetensors: z.record(z.string(), z.string()).optional(),
    }),
  ),
});
const { adapters } = indexSchema.parse(JSON.parse(readFileSync(join(folder, 'index.json'), 'utf8')));
const inputs = readGoldenTensors(join(folder, 'expected', 'inputs.safetensors'));

const VARIANTS: Readonly<Record<string, IPAdapterModel['variant']>> = {
  base: 'base',
  plus: 'plus',
  full: 'full_face',
  faceid: 'faceid',
  'faceid-portrait': 'faceid_portrait',
  'faceid-plus': 'faceid_plus',
  'faceid-plusv2': 'faceid_plus_v2',
};

describe.each(adapters)('$name', (adapter) => {
  const expected = readGoldenTensors(join(folder, adapter.expected));
  const shared = adapter.inputs_in_inputs_safetensors ?? {};
  // `b1.`, `b3.`, or nothing: pictures of one batch.
  const groups = [...expected.keys()].flatMap((name) => /^((?:b\d+\.)?)cond$/.exec(name)?.[1] ?? []).sort();

  /** An input where the README puts it; one row stands for as many as there are. */
  const input = (name: string, rows: number): F32Tensor | undefined => {
    const elsewhere = shared[name];
    const source: ReadonlyMap<string, Tensor> = elsewhere === undefined ? expected : inputs;
    return source.has(elsewhere ?? name) ? repeatRows(f32Of(source, elsewhere ?? name), rows) : undefined;
  };
  const features = (group: string, side: string, rows: number): AdapterFeatures => {
    const plain = input(`${group}in.${side}`, rows);
    const isFace = adapter.kind === 'faceid' || adapter.kind === 'faceid-portrait';
    const image = isFace ? undefined : (plain ?? input(`${group}in.clip.${side}`, rows));
    const face = isFace ? plain : input(`${group}in.face.${side}`, rows);
    return { ...(image === undefined ? {} : { image }), ...(face === undefined ? {} : { face }) };
  };

  it(`is recognised as ${adapter.kind}`, async () => {
    const model = await engine.open(join(folder, adapter.model));
    expect(model.variant).toBe(VARIANTS[adapter.kind]);
  });

  // plus-sdxl-form alone has no unconditional part.
  const sides = groups.flatMap((group) =>
    ['cond', 'uncond'].filter((side) => expected.has(`${group}${side}`)).map((side) => [group, side] as const),
  );
  it.each(sides)('projects %s%s and its keys and values as the reference does', async (group, side) => {
    const model = await engine.open(join(folder, adapter.model));
    const rows = f32Of(expected, `${group}cond`).shape[0] ?? 0;
    const wanted = repeatRows(f32Of(expected, `${group}${side}`), rows);
    const { tokens, layers } = await engine.project(model, features(group, side, rows), {
      layers: 'all',
      faceIdV2Scale: adapter.s_scale ?? 1,
    });
    expect(maxAbsDiff(tokens, wanted)).toBeLessThan(TOLERANCE);
    for (const [layer, { keys, values }] of layers) {
      for (const [letter, got] of [
        ['k', keys],
        ['v', values],
      ] as const) {
        const name = `${group}${letter}_${side}.${layer}`;
        if (group !== groups[0] && !expected.has(name)) continue; // stored for the first batch at least
        expect(maxAbsDiff(got, repeatRows(f32Of(expected, name), rows)), name).toBeLessThan(TOLERANCE);
      }
    }
  });
});

it('a pickled adapter is the adapter that its safetensors file is', async () => {
  const expected = readGoldenTensors(join(folder, 'expected', 'base-sd15.safetensors'));
  const model = await engine.open(join(folder, 'models', 'base-sd15.bin'));
  expect(model).toMatchObject({ variant: 'base', layers: [1, 3] });
  const { tokens, layers } = await engine.project(model, { image: f32Of(expected, 'b3.in.cond') }, { layers: 'all' });
  expect(maxAbsDiff(tokens, f32Of(expected, 'b3.cond'))).toBeLessThan(TOLERANCE);
  expect(maxAbsDiff(layers.get(3)?.values, f32Of(expected, 'b3.v_cond.3'))).toBeLessThan(TOLERANCE);
});

function repeatRows(tensor: F32Tensor, rows: number): F32Tensor {
  const [have = 0, ...rest] = tensor.shape;
  if (have === rows) return tensor;
  const length = elementCount(rest);
  const data = new Float32Array(rows * length);
  for (let row = 0; row < rows; row += 1) {
    const from = Math.min(row, have - 1) * length;
    data.set(tensor.data.subarray(from, from + length), row * length);
  }
  return { dtype: 'F32', shape: [rows, ...rest], data };
}

const shapes = z.record(z.string(), z.array(z.number()));
const detectCases = z
  .array(
    z.object({
      file: z.string(),
      image_proj: shapes,
      ip_adapter: shapes,
      detected: z.object({
        output_cross_attention_dim: z.number(),
        cross_attention_dim: z.number(),
        clip_embeddings_dim: z.number(),
        clip_extra_context_tokens: z.number(),
        is_sdxl: z.boolean(),
        is_plus: z.boolean(),
        is_full: z.boolean(),
        is_faceid: z.boolean(),
        is_portrait: z.boolean(),
        is_portrait_unnorm: z.boolean(),
        is_kwai_kolors: z.boolean(),
        is_faceidv2: z.boolean(),
        clipvision_size: z.number(),
      }),
      projector: z.string(),
      projector_parameters: z.number(),
    }),
  )
  .parse(JSON.parse(readFileSync(join(folder, 'detect-cases.json'), 'utf8')));

const PROJECTORS: Readonly<Record<IPAdapterModel['projector'], string>> = {
  base: 'ImageProjModel',
  full: 'MLPProjModel',
  faceid: 'MLPProjModelFaceId',
  resampler: 'Resampler',
  'faceid-plus': 'ProjModelFaceIdPlus',
};

describe('recognition of the published files, from keys and shapes', () => {
  it.each(detectCases)('$file', (entry) => {
    const { model, sizes } = resolveAdapter(headerOf(entry.file, entry.image_proj, entry.ip_adapter));
    const { detected } = entry;
    const isFace = model.face !== undefined;
    expect({
      projector: PROJECTORS[model.projector],
      projector_parameters: model.projectionParameters,
      is_sdxl: model.contextWidth === 2048,
      is_kwai_kolors: model.baseModel === 'kolors',
      is_full: model.variant === 'full_face',
      is_plus: ['plus', 'full_face', 'faceid_plus', 'faceid_plus_v2'].includes(model.variant),
      is_faceid: isFace,
      is_portrait: model.variant === 'faceid_portrait',
      is_portrait_unnorm: model.variant === 'faceid_portrait_unnorm',
      is_faceidv2: model.variant === 'faceid_plus_v2',
      output_cross_attention_dim: model.contextWidth,
      clip_embeddings_dim: model.encoder?.width ?? model.face?.width,
      cross_attention_dim: sizes.innerWidth,
      clipvision_size: model.encoder?.imageSize ?? 224,
      // The extension counts 16 for full-face, which in truth gives one token per patch and one.
      clip_extra_context_tokens: model.tokens ?? 16,
    }).toEqual({
      ...Object.fromEntries(Object.entries(detected)),
      projector: entry.projector,
      projector_parameters: entry.projector_parameters,
    });
  });
});

function headerOf(
  file: string,
  projection: Readonly<Record<string, number[]>>,
  attention: Readonly<Record<string, number[]>>,
): ModelHeader {
  const tensors = new Map<string, TensorInfo>();
  for (const [prefix, part] of Object.entries({ image_proj: projection, ip_adapter: attention })) {
    for (const [key, shape] of Object.entries(part)) {
      const name = `${prefix}.${key}`;
      tensors.set(name, { name, dtype: 'F16', shape, offset: 0, sizeBytes: 2 * elementCount(shape) });
    }
  }
  const stamp = { device: 0, inode: 0, sizeBytes: 0, modifiedMs: 0 };
  return {
    path: `/models/${file}`,
    folder: '/models',
    container: 'safetensors',
    sizeBytes: 0,
    tensors,
    strided: new Map(),
    metadata: new Map(),
    stamp,
  };
}

it('has all golden folders', () => {
  expect(existsSync(join(folder, 'models'))).toBe(true);
  expect(adapters.length).toBeGreaterThan(0);
  expect(detectCases.length).toBeGreaterThan(0);
});
