import { describe, expect, it } from 'vitest';
import { projectOnComponents } from '../../../src/nodes/principal-components.js';
import { f32Tensor } from '../../../src/tensor/tensor.js';
import { seededRandom } from '../../support/random.js';

/** Variance of a column of `[N, count]`. */
function variance(data: Float32Array, count: number, column: number): number {
  const values = Array.from(data).filter((_value, i) => i % count === column);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
}

describe('principal components', () => {
  it('are the axes of points that are spread 9, 4 and 1 wide along three known directions', async () => {
    const random = seededRandom(7);
    const noise = Float64Array.from({ length: 600 * 3 }, () => random() - 0.5);
    const directions = [
      [0.6, 0.8, 0, 0],
      [0, 0, 1, 0],
      [-0.8, 0.6, 0, 0],
    ];
    const data = new Float32Array(600 * 4);
    for (let row = 0; row < 600; row += 1)
      directions.forEach((direction, axis) => {
        const weight = (noise[row * 3 + axis] ?? 0) * ([9, 4, 1][axis] ?? 0);
        direction.forEach((value, k) => {
          data[row * 4 + k] = (data[row * 4 + k] ?? 0) + weight * value;
        });
      });
    const projected = await projectOnComponents(f32Tensor([600, 4], data), 3);
    // Against the covariance of the coordinates along the true directions, whose eigenvalues come from the same data.
    const total = [0, 1, 2].reduce((sum, column) => sum + variance(projected.data, 3, column), 0);
    const direct = [0, 1, 2, 3].reduce((sum, column) => sum + variance(data, 4, column), 0);
    expect(total).toBeCloseTo(direct, 3);
    expect(variance(projected.data, 3, 0)).toBeGreaterThan(variance(projected.data, 3, 1));
    expect(variance(projected.data, 3, 1)).toBeGreaterThan(variance(projected.data, 3, 2));
    const covariance = Array.from(projected.data).reduce(
      (sum, value, i) => (i % 3 === 0 ? sum + value * (projected.data[i + 1] ?? 0) : sum),
      0,
    );
    expect(Math.abs(covariance / 600)).toBeLessThan(1e-4); // components do not correlate
  });

  it('are the same for the same vectors, and zero where there is no further direction', async () => {
    const line = Float32Array.from({ length: 50 * 8 }, (_none, i) => (i % 8 === 2 ? Math.floor(i / 8) : 0));
    const first = await projectOnComponents(f32Tensor([50, 8], line), 3);
    const second = await projectOnComponents(f32Tensor([50, 8], line), 3);
    expect(first.data).toEqual(second.data);
    expect(first.data[0]).toBeCloseTo(-24.5, 4);
    expect(Math.max(...first.data.filter((_value, i) => i % 3 !== 0).map(Math.abs))).toBeLessThan(1e-6);
  });

  it('stop when they are cancelled', async () => {
    await expect(projectOnComponents(f32Tensor([4, 2], new Float32Array(8)), 1, AbortSignal.abort())).rejects.toThrow(
      expect.objectContaining({ code: 'CANCELLED' }),
    );
  });
});
