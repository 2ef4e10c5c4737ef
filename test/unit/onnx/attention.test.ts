import { tmpdir } from 'node:os';
import { describe, expect, it } from 'vitest';
import { attention, GraphBuilder } from '../../../src/onnx/index.js';
import { Session } from '../../../src/runtime/index.js';
import { f32Tensor, type F32Tensor } from '../../../src/tensor/tensor.js';
import { maxAbsDiff } from '../../support/compare.js';
import { seededRandom } from '../../support/random.js';

const HEADS = 3;
const HEAD_WIDTH = 8;
const WIDTH = HEADS * HEAD_WIDTH;

async function attend(q: F32Tensor, kv: F32Tensor, fusesAttention: boolean): Promise<F32Tensor | undefined> {
  const g = new GraphBuilder('attention', { fusesAttention });
  const shape = ['batch', 'length', WIDTH];
  const [queries, keys] = [g.input('q', 'F32', shape), g.input('k', 'F32', ['batch', 'read', WIDTH])];
  g.output('mixed', attention(g, queries, keys, keys, HEADS, HEAD_WIDTH), shape);
  await using session = await Session.create(g.build(), { weightsFolder: tmpdir() });
  return (await session.run({ q, k: kv }, ['mixed'])).get('mixed');
}

describe('attention', () => {
  it.each([
    [1, 37, 37],
    [3, 16, 50],
  ])('of %d pictures, %d queries and %d keys is the same fused and from its parts', async (batch, queries, keys) => {
    const random = seededRandom(batch);
    const values = (tokens: number): F32Tensor =>
      f32Tensor(
        [batch, tokens, WIDTH],
        Float32Array.from({ length: batch * tokens * WIDTH }, () => 4 * random() - 2),
      );
    const [q, kv] = [values(queries), values(keys)];
    const fused = await attend(q, kv, true);
    if (fused === undefined) throw new Error('no result');
    expect(maxAbsDiff(await attend(q, kv, false), fused)).toBeLessThan(1e-6);
  });
});
