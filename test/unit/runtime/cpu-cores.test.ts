import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { physicalCores } from '../../../src/runtime/cpu-cores.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vision-bridge-cpus-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

/** Processors with the processors that share their core; one without is switched off. */
function describeCpus(siblings: readonly (string | undefined)[]): void {
  mkdirSync(join(folder, 'cpufreq'));
  siblings.forEach((list, i) => {
    mkdirSync(join(folder, `cpu${i}`, 'topology'), { recursive: true });
    if (list !== undefined) writeFileSync(join(folder, `cpu${i}`, 'topology', 'thread_siblings_list'), `${list}\n`);
  });
}

describe('physical cores', () => {
  it('are counted once, however many hyperthreads they have', () => {
    describeCpus(['0,4', '1,5', '2', '3', '0,4', '1,5']);
    expect(physicalCores(folder, 6)).toBe(4);
  });

  it('are no more than the process may use', () => {
    describeCpus(['0', '1', '2', '3']);
    expect(physicalCores(folder, 2)).toBe(2);
  });

  it('do not include those that are switched off', () => {
    describeCpus(['0', '1', undefined]);
    expect(physicalCores(folder, 3)).toBe(2);
  });

  it('are unknown where the system does not say', () => {
    expect(physicalCores(join(folder, 'nowhere'), 8)).toBeUndefined();
    expect(physicalCores(folder, 8)).toBeUndefined();
  });
});
