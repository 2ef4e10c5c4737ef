/** Values that are no numbers, found at the door: one NaN in a picture makes all of its features NaN. */
import { InvalidRequestError } from '../common/errors.js';
import type { Shape } from '../tensor/tensor.js';

const BLOCK = 4096;

/**
 * @param what Names the tensor at the beginning of the message.
 * @throws {InvalidRequestError} with the index of the first value that is NaN or infinite.
 */
export function requireFinite(data: Float32Array, shape: Shape, what: string): void {
  for (let begin = 0; begin < data.length; begin += BLOCK) {
    const end = Math.min(data.length, begin + BLOCK);
    // x·0 is 0 for every number and NaN for all else: one test a block.
    let zero = 0;
    for (let i = begin; i < end; i += 1) zero += (data[i] ?? 0) * 0;
    if (zero === 0) continue;
    const at = data.findIndex((value, i) => i >= begin && !Number.isFinite(value));
    const index = indexOf(at, shape);
    throw new InvalidRequestError(
      `${what} holds ${String(data[at])} at [${index.join(', ')}]; all values are finite.`,
      {
        details: { index, shape },
      },
    );
  }
}

function indexOf(position: number, shape: Shape): number[] {
  let rest = position;
  return shape
    .toReversed()
    .map((side) => {
      const index = rest % side;
      rest = Math.floor(rest / side);
      return index;
    })
    .reverse();
}
