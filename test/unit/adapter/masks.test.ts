import { describe, expect, it } from 'vitest';
import { maskTokens } from '../../../src/adapter/index.js';
import { f32Tensor, u8Tensor, type F32Tensor } from '../../../src/tensor/tensor.js';

const place = { latentHeight: 4, latentWidth: 4, tokens: 4, batch: 1 };
const left = Float32Array.of(1, 0, 1, 0);

// What attention makes of masks is in golden/vision/adapter-arithmetic.test.ts.
describe('a mask of a region', () => {
  it('may leave out how many it is', () => {
    expect(maskTokens(f32Tensor([2, 2], left), place)).toEqual(maskTokens(f32Tensor([1, 2, 2], left), place));
  });

  it.each<[string, F32Tensor, RegExp]>([
    ['of another rank', f32Tensor([4], left), /shape \[M, H, W\] or \[H, W\], got \[4\]/],
    ['of no size', f32Tensor([0, 2], new Float32Array(0)), /got \[0, 2\]/],
    ['with too few values', { dtype: 'F32', shape: [1, 512, 512], data: left }, /a value for each of \[1, 512, 512\]/],
    ['in 8 bits', u8Tensor([2, 2], Uint8Array.from(left)) as unknown as F32Tensor, /A mask is F32/],
    ['with NaN', f32Tensor([2, 2], Float32Array.of(1, NaN, 0, 0)), /The mask/],
  ])('%s is refused', (_what, mask, message) => {
    expect(() => maskTokens(mask, place)).toThrow(message);
  });
});
