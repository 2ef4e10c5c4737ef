import { describe, expect, it } from 'vitest';
import { BridgeError } from '../../../src/common/errors.js';
import { resolveAdapter } from '../../../src/adapter/index.js';
import { base } from '../../../src/adapter/families/base.js';
import { faceid } from '../../../src/adapter/families/faceid.js';
import type { AdapterFamily, ProjectionSizes } from '../../../src/adapter/families/index.js';
import { resampler } from '../../../src/adapter/families/resampler.js';
import type { ModelHeader, TensorInfo } from '../../../src/formats/index.js';
import { elementCount, type Shape } from '../../../src/tensor/tensor.js';
import { adapterShapes, KOLORS_FACEID, TRUE_SIZES } from '../../support/random-adapter.js';

interface Parts {
  readonly projection: Map<string, Shape>;
  readonly attention: Map<string, Shape>;
}

function partsOf(family: AdapterFamily, sizes: ProjectionSizes): Parts {
  const attention = new Map<string, Shape>();
  for (const layer of [1, 3]) {
    for (const part of ['to_k_ip', 'to_v_ip']) attention.set(`${layer}.${part}.weight`, [320, sizes.contextWidth]);
  }
  return { projection: new Map(family.needs(sizes)), attention };
}

interface Written {
  readonly path?: string;
  readonly prefixes?: readonly [string, string];
  readonly dtype?: string;
}

function headerOf({ projection, attention }: Parts, options: Written = {}): ModelHeader {
  const { path = '/models/x.safetensors', prefixes = ['image_proj.', 'ip_adapter.'], dtype = 'F16' } = options;
  const tensors = new Map<string, TensorInfo>();
  for (const [prefix, part] of [
    [prefixes[0], projection],
    [prefixes[1], attention],
  ] as const) {
    for (const [key, shape] of part)
      tensors.set(prefix + key, { name: prefix + key, dtype, shape, offset: 0, sizeBytes: 2 * elementCount(shape) });
  }
  const stamp = { device: 0, inode: 0, sizeBytes: 0, modifiedMs: 0 };
  return {
    path,
    folder: '/models',
    container: 'safetensors',
    sizeBytes: 0,
    tensors,
    strided: new Map(),
    metadata: new Map(),
    stamp,
  };
}

const basic = (): Parts => partsOf(base, TRUE_SIZES.base.sizes);
const plus = (): Parts => partsOf(resampler, TRUE_SIZES.plus.sizes);

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof BridgeError) return error.code;
    throw error;
  }
  return 'none';
}

describe('an adapter is recognised', () => {
  it.each([
    ['image_proj.', 'ip_adapter.', 'nested'],
    ['image_proj.', 'adapter_modules.', 'nested'],
    ['', '', 'flat'],
  ])('with the prefixes "%s" and "%s"', (projection, attention, layout) => {
    const { model } = resolveAdapter(headerOf(basic(), { prefixes: [projection, attention] }));
    expect(model).toMatchObject({ variant: 'base', layout, layers: [1, 3], tokens: 4, baseModel: 'sd15' });
  });

  it('whatever else its file holds', () => {
    const header = headerOf(basic());
    const more = new Map([
      ...header.tensors,
      ['optimizer.step', { name: 'optimizer.step', dtype: 'I64', shape: [], offset: 0, sizeBytes: 8 }],
    ]);
    expect(resolveAdapter({ ...header, tensors: more }).model.variant).toBe('base');
  });

  it('as FaceID with LoRA matrices, as portrait without', () => {
    const parts = partsOf(faceid, { tokens: 4, contextWidth: 768, innerWidth: 768, faceWidth: 512, hiddenWidth: 1024 });
    expect(resolveAdapter(headerOf(parts)).model).toMatchObject({
      variant: 'faceid_portrait',
      face: { isNormed: true },
    });
    parts.attention.set('0.to_q_lora.down.weight', [128, 320]);
    expect(resolveAdapter(headerOf(parts)).model).toMatchObject({
      variant: 'faceid',
      hasLora: true,
      face: { width: 512 },
    });
  });

  it('as portrait unnorm by its input, without help of its path', () => {
    const sizes = { ...TRUE_SIZES.plus.sizes, imageWidth: 512 };
    const { model } = resolveAdapter(headerOf(partsOf(resampler, sizes)));
    expect(model).toMatchObject({ variant: 'faceid_portrait_unnorm', face: { isNormed: false } });
    expect(model.encoder).toBeUndefined();
  });
});

describe('FaceID-plus for Kolors, in the sizes of the published file', () => {
  const parts = (): Parts => {
    const [projection, attention] = [new Map<string, Shape>(), new Map<string, Shape>()];
    for (const [name, shape] of adapterShapes(KOLORS_FACEID)) {
      const isLayer = name.startsWith('ip_adapter.');
      (isLayer ? attention : projection).set(name.slice(name.indexOf('.') + 1), shape);
    }
    return { projection, attention };
  };

  it('is known by its resampler of 4096, without LoRA matrices and whatever its path says', () => {
    const { model } = resolveAdapter(headerOf(parts()));
    expect(model).toMatchObject({
      variant: 'faceid_plus_v2',
      label: 'IP-Adapter FaceID-plus v2 for Kolors',
      baseModel: 'kolors',
      tokens: 6,
      tokenWidth: 4096,
      contextWidth: 2048,
      hasLora: false,
      encoder: { output: 'penultimate_hidden_states', width: 1024, imageSize: 336 },
      face: { width: 512, isNormed: true, cropSize: 336 },
    });
  });

  it('has the 70 layers of SDXL under odd numbers, which is how IPAdapter_plus counts them', () => {
    const { model, keys } = resolveAdapter(headerOf(parts()));
    expect(model.layers).toEqual(Array.from({ length: 70 }, (_none, i) => 2 * i + 1));
    for (const [layer, width] of [
      [1, 640],
      [7, 640],
      [9, 1280],
      [107, 1280],
      [109, 640],
      [119, 640],
      [121, 1280],
      [139, 1280],
    ] as const) {
      expect(keys.attention.get(`${layer}.to_k_ip.weight`)?.shape, `${layer}`).toEqual([width, 2048]);
      expect(keys.attention.get(`${layer}.to_v_ip.weight`)?.shape, `${layer}`).toEqual([width, 2048]);
    }
  });
});

describe('a file is refused', () => {
  it('that has no layers, or no projection that is known', () => {
    expect(codeOf(() => resolveAdapter(headerOf({ ...basic(), attention: new Map() })))).toBe('ADAPTER_UNKNOWN');
    expect(codeOf(() => resolveAdapter(headerOf({ ...basic(), projection: new Map([['x', [1]]]) })))).toBe(
      'ADAPTER_UNKNOWN',
    );
    expect(codeOf(() => resolveAdapter(headerOf({ projection: new Map(), attention: new Map() })))).toBe(
      'ADAPTER_UNKNOWN',
    );
  });

  it('for any one tensor of its projection or layers that is missing, or of another shape', () => {
    for (const part of ['projection', 'attention'] as const) {
      for (const name of plus()[part].keys()) {
        const missing = plus();
        missing[part].delete(name);
        expect(['TENSOR_MISSING', 'ADAPTER_UNKNOWN'], name).toContain(codeOf(() => resolveAdapter(headerOf(missing))));
        const wrong = plus();
        wrong[part].set(name, [7, 7, 7]);
        expect(
          codeOf(() => resolveAdapter(headerOf(wrong))),
          name,
        ).toBe('TENSOR_INVALID');
      }
    }
  });

  it('that lacks a norm, a bias, or the values of a layer, naming it', () => {
    for (const name of ['norm_out.bias', 'layers.2.0.norm1.weight', 'layers.3.1.3.weight', 'proj_in.bias']) {
      const parts = plus();
      parts.projection.delete(name);
      expect(() => resolveAdapter(headerOf(parts))).toThrow(name);
    }
    const parts = plus();
    parts.attention.delete('3.to_v_ip.weight');
    expect(() => resolveAdapter(headerOf(parts))).toThrow('3.to_v_ip.weight');
  });

  it('whose layers read another width than its tokens have', () => {
    const parts = basic();
    for (const name of parts.attention.keys()) parts.attention.set(name, [320, 1024]);
    expect(codeOf(() => resolveAdapter(headerOf(parts)))).toBe('TENSOR_INVALID');
  });

  it('whose rows make no whole tokens or heads, or that is stored as whole numbers', () => {
    const tokens = basic();
    tokens.projection.set('proj.weight', [3073, 1024]);
    expect(codeOf(() => resolveAdapter(headerOf(tokens)))).toBe('TENSOR_INVALID');
    const heads = plus();
    heads.projection.set('layers.0.0.to_q.weight', [770, 768]);
    expect(codeOf(() => resolveAdapter(headerOf(heads)))).toBe('TENSOR_INVALID');
    expect(codeOf(() => resolveAdapter(headerOf(basic(), { dtype: 'I8' })))).toBe('TENSOR_INVALID');
  });
});
