import { describe, expect, it } from 'vitest';
import { bf16ToF32Array, f16BitsToF32, f16ToF32Array, f32ToF16Bits } from '../../../src/tensor/float16.js';

describe('half floats', () => {
  it('survive widening and narrowing, all 65,536 of them', () => {
    const all = Uint16Array.from({ length: 65_536 }, (_none, i) => i);
    const wide = f16ToF32Array(all);
    for (let bits = 0; bits < 65_536; bits += 1) {
      const value = wide[bits] ?? 0;
      if (Number.isNaN(value)) expect(f32ToF16Bits(value) & 0x7fff).toBe(0x7e00);
      else if (f32ToF16Bits(value) !== bits) expect(f32ToF16Bits(value)).toBe(bits);
    }
  });

  it.each([
    [1, 0x3c00],
    [-2, 0xc000],
    [65_504, 0x7bff],
    [65_519.99, 0x7bff],
    [65_520, 0x7c00],
    [2 ** -24, 0x0001],
    [2 ** -25, 0x0000],
    [2 ** -25 * 1.0001, 0x0001],
    [1 + 2 ** -11, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3c02],
    [-Infinity, 0xfc00],
  ])('rounds %d to the nearest, ties to even', (value, bits) => {
    expect(f32ToF16Bits(value)).toBe(bits);
  });

  it('reads known bits', () => {
    expect(f16BitsToF32(0x3555)).toBeCloseTo(1 / 3, 3);
    expect(f16BitsToF32(0x8000)).toBe(-0);
  });

  it('widens bfloat16 exactly', () => {
    expect([...bf16ToF32Array(Uint16Array.of(0x3f80, 0xc000, 0x7f80))]).toEqual([1, -2, Infinity]);
  });
});
