/**
 * Resident memory of the server and its inference process, pages of mapped files apart, after the first 500 encodes and after all of them.
 *
 *     npx tsx test/bench/memory.ts [--encodes 10000]
 *
 * Random pictures of mixed sizes over HTTP, one in five as PNG. Exits with 1 when the sum grew beyond 1.1 times. Linux.
 */
import { parseArgs } from 'node:util';
import { printLine } from '../../src/cli/output.js';
import { printTable } from '../../src/cli/table.js';
import { HAS_PROC, measureMemory, sumMb, type Resident } from '../support/memory.js';

const FIRST_SAMPLE_AFTER = 500;
const BOUND = 1.1;

const { values } = parseArgs({ options: { encodes: { type: 'string', default: '10000' } } });
const encodes = Number(values.encodes);
if (!Number.isInteger(encodes) || encodes <= FIRST_SAMPLE_AFTER) {
  throw new RangeError(`--encodes takes a whole number above ${FIRST_SAMPLE_AFTER}`);
}
if (!HAS_PROC) throw new Error('this system has no /proc to read memory from');

const begin = performance.now();
const { first, last, growth } = await measureMemory({ encodes, firstSampleAfter: FIRST_SAMPLE_AFTER });
const row = (label: string, of: (resident: Resident) => number): string[] => [
  label,
  of(first).toFixed(1),
  of(last).toFixed(1),
  (of(last) / of(first)).toFixed(3),
];
printTable(
  ['MB resident', `after ${FIRST_SAMPLE_AFTER}`, `after ${encodes}`, 'ratio'],
  [
    row('server', ({ serverMb }) => serverMb),
    row('inference process', ({ inferenceMb }) => inferenceMb),
    row('both', sumMb),
    row('beside: mapped files', ({ filesMb }) => filesMb),
  ],
);
printLine(`${encodes} encodes in ${((performance.now() - begin) / 1000).toFixed(0)} s; the bound is ${BOUND}`);
if (growth > BOUND) process.exitCode = 1;
