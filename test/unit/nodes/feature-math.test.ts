import { describe, expect, it } from 'vitest';
import { cosineMatrix, imageVectors, patchesOf, scoreOf } from '../../../src/nodes/feature-math.js';
import { f32Tensor } from '../../../src/tensor/tensor.js';

const matrix = (rows: number[][]): ReturnType<typeof f32Tensor> =>
  f32Tensor([rows.length, rows[0]?.length ?? 0], Float32Array.from(rows.flat()));
const states = (tokens: number, width = 2): ReturnType<typeof f32Tensor> =>
  f32Tensor(
    [1, tokens, width],
    Float32Array.from({ length: tokens * width }, (_none, i) => i),
  );

describe('cosines', () => {
  it('are those of all pairs by rows, and 0 for a vector of zeros', () => {
    const cosines = cosineMatrix(
      matrix([
        [3, 4],
        [0, 0],
      ]),
      matrix([
        [3, 4],
        [4, -3],
        [-6, -8],
      ]),
    );
    expect(cosines.shape).toEqual([2, 3]);
    [1, 0, -1, 0, 0, 0].forEach((value, i) => {
      expect(cosines.data[i]).toBeCloseTo(value, 6);
    });
  });

  it('of different encoders are refused, with both widths', () => {
    expect(() => cosineMatrix(matrix([[1, 2]]), matrix([[1, 2, 3]]))).toThrow('2 and 3 wide');
  });

  it('become one score', () => {
    const cosines = matrix([
      [0.1, 0.9],
      [0.5, 0.3],
    ]);
    expect(scoreOf(cosines, 'mean')).toBeCloseTo(0.45, 6);
    expect(scoreOf(cosines, 'lowest')).toBeCloseTo(0.1, 6);
    expect(scoreOf(cosines, 'highest')).toBeCloseTo(0.9, 6);
    expect(scoreOf(cosines, 'mean of best')).toBeCloseTo(0.7, 6);
  });
});

describe('patches', () => {
  it('come without class token and registers', () => {
    for (const [tokens, prefix] of [
      [9, 0],
      [10, 1],
      [21, 5],
    ] as const) {
      const { patches, rows, columns } = patchesOf({ lastHiddenState: states(tokens) }, 'last_hidden_state', 0, 'x');
      expect(patches.shape).toEqual([1, tokens - prefix, 2]);
      expect(rows * columns).toBe(tokens - prefix);
      expect(patches.data[0]).toBe(prefix * 2);
    }
  });

  it('of a picture that is not square need the number of rows', () => {
    const features = { lastHiddenState: states(24) };
    expect(() => patchesOf(features, 'last_hidden_state', 0, 'features')).toThrow('give the number of rows');
    expect(patchesOf(features, 'last_hidden_state', 4, 'features')).toMatchObject({ rows: 4, columns: 6 });
    expect(() => patchesOf(features, 'penultimate_hidden_states', 4, 'features')).toThrow('no penultimate');
  });

  it('stand for their image by their mean, as a sequence of image embeds does', () => {
    expect(Array.from(imageVectors({ lastHiddenState: states(5) }, 'mean of patches', 'x').data)).toEqual([5, 6]);
    expect(Array.from(imageVectors({ imageEmbeds: states(3) }, 'image embeds', 'x').data)).toEqual([2, 3]);
  });
});
