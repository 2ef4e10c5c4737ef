import { describe, expect, it } from 'vitest';
import { combineEmbeds, type IPAdapterEmbeds } from '../../../src/adapter/index.js';
import { f32Tensor } from '../../../src/tensor/tensor.js';

const adapter = { name: 'plus.safetensors', variant: 'plus', identity: '1-2' };

function embedsOf(value: number, image: string, settings: IPAdapterEmbeds['provenance']['settings']): IPAdapterEmbeds {
  return {
    kind: 'ipadapter_embeds',
    cond: { image: f32Tensor([1, 2], Float32Array.of(value, 2 * value)) },
    provenance: { adapter, images: [image], settings },
  };
}

const one = embedsOf(1, 'a', { precision: 'comfy', weights: [0.5], combine: 'concat', negative: 'default' });
const two = embedsOf(4, 'b', { precision: 'comfy', weights: [1], combine: 'average', negative: 'images', tiles: 2 });

describe('combined embeds', () => {
  it('say of every part where it came from: what all agree in, lists in order, the rest as each has it', () => {
    const { provenance } = combineEmbeds([one, two], 'add');
    expect(provenance).toEqual({
      adapter,
      images: ['a', 'b'],
      settings: {
        precision: 'comfy',
        weights: [0.5, 1],
        combine: 'add',
        combined_before: 'concat + average',
        negative: 'default + images',
        tiles: 'none + 2',
      },
    });
  });

  it('name no adapter where they are of several', () => {
    const other = { ...two, provenance: { ...two.provenance, adapter: { ...adapter, name: 'base.safetensors' } } };
    expect(combineEmbeds([one, other], 'add').provenance.adapter).toBeUndefined();
  });

  it('count by a weight for each, which is written down', () => {
    const { cond, provenance } = combineEmbeds([one, two], 'add', [2, -0.5]);
    expect([...(cond.image?.data ?? [])]).toEqual([0, 0]);
    expect(provenance.settings['embeds_weights']).toEqual([2, -0.5]);
  });

  it.each([[[1]], [[1, 2, 3]]])('refuse another number of weights: %j', (weights) => {
    expect(() => combineEmbeds([one, two], 'add', weights)).toThrow(`there are 2 embeds and ${weights.length} weights`);
  });

  it('refuse a weight that is no number', () => {
    expect(() => combineEmbeds([one, two], 'add', [1, NaN])).toThrow('A weight is a finite number');
  });
});
