/** Memory over many encodes, in short; test/bench/memory.ts is the long form. */
import { expect, it } from 'vitest';
import { HAS_PROC, measureMemory } from '../support/memory.js';

const BOUND = 1.15;

it('800 further encodes do not make the server and its inference process grow', async ({ skip }) => {
  skip(!HAS_PROC, 'this system has no /proc to read memory from');
  const { first, last, growth } = await measureMemory({ encodes: 1200, firstSampleAfter: 400 });
  expect(growth, JSON.stringify({ first, last })).toBeLessThan(BOUND);
}, 120_000);
