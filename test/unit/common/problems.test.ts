import { describe, expect, it } from 'vitest';
import * as z from 'zod';
import { nearNames, problemsOf } from '../../../src/common/problems.js';

describe('problemsOf', () => {
  it('speaks of values as people do, by the names that they know', () => {
    const schema = z.object({ model: z.string(), port: z.coerce.number(), crop: z.enum(['center', 'none']) });
    const { error } = schema.safeParse({ port: 'abc', crop: 'left' });
    if (error === undefined) throw new Error('nothing is wrong');
    expect(problemsOf(error, ([name]) => `--${String(name)}`)).toEqual([
      '--model: it is missing (a text)',
      '--port: a number is wanted',
      '--crop: one of center, none is wanted',
    ]);
  });
});

describe('nearNames', () => {
  it('gives what differs in a letter or two, nearest first, and nothing else', () => {
    const names = ['clip_l_random', 'clip_h', 'siglip'];
    expect(nearNames('clip_l_randm', names)).toEqual(['clip_l_random']);
    expect(nearNames('CLIP_G', names, 3)).toEqual(['clip_h']);
    expect(nearNames('flux-dev', names)).toEqual([]);
  });
});
