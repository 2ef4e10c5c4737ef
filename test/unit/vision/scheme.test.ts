import { describe, expect, it } from 'vitest';
import { quantizeMatrix } from '../../../src/vision/quantization/scheme.js';

/** f32 `[rows, columns]`; one row is all zeros. */
function matrix(rows: number, columns: number): { data: Float32Array; rows: number; columns: number } {
  const data = Float32Array.from({ length: rows * columns }, (_none, i) => Math.sin(i * 1.7) * Math.cos(i * 0.0031));
  return { data: data.fill(0, columns, 2 * columns), rows, columns };
}

describe('a matrix in 8 bits', () => {
  it('is turned, and each weight is within half a step, whatever its sides are', () => {
    for (const [rows, columns] of [
      [3, 5],
      [64, 64],
      [65, 130],
      [200, 63],
    ] as const) {
      const exact = matrix(rows, columns);
      const { levels, scale, low, sums } = quantizeMatrix(exact, { hasLow: true });
      const worst = { level: 0, coarse: 0, fine: 0, sum: 0 };
      for (let row = 0; row < rows; row += 1) {
        const step = scale[row] ?? 0;
        let sum = 0;
        for (let j = 0; j < columns; j += 1) {
          const weight = exact.data[row * columns + j] ?? 0;
          const level = levels[j * rows + row] ?? NaN;
          const fine = level + (low?.[j * rows + row] ?? NaN) / 254;
          sum += level;
          worst.level = Math.max(worst.level, Math.abs(level));
          worst.coarse = Math.max(worst.coarse, Math.abs(level - weight / step));
          worst.fine = Math.max(worst.fine, Math.abs(fine - weight / step));
        }
        worst.sum = Math.max(worst.sum, Math.abs((sums[row] ?? NaN) - sum * step));
      }
      expect(worst.level).toBe(127);
      expect(worst.coarse).toBeLessThanOrEqual(0.50001);
      expect(worst.fine).toBeLessThanOrEqual(0.50001 / 254);
      expect(worst.sum).toBeLessThan(1e-3);
      expect(scale[1]).toBe(1);
    }
  });
});
