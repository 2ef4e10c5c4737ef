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

/** What Linux says of a process that may use these processors. */
function statusOf(allowed: string): string {
  const path = join(folder, 'status');
  writeFileSync(path, `Name:\tnode\nCpus_allowed:\tff\nCpus_allowed_list:\t${allowed}\nMems_allowed_list:\t0\n`);
  return path;
}

describe('physical cores', () => {
  it('are counted once, however many hyperthreads they have', () => {
    describeCpus(['0,4', '1,5', '2', '3', '0,4', '1,5']);
    expect(physicalCores(folder, statusOf('0-5'))).toBe(4);
  });

  it('count only where the process may run', () => {
    describeCpus(['0,4', '1,5', '2,6', '3,7', '0,4', '1,5', '2,6', '3,7']);
    expect(physicalCores(folder, statusOf('0,4'))).toBe(1);
    expect(physicalCores(folder, statusOf('1-2,7'))).toBe(3);
  });

  it('do not include those that are switched off', () => {
    describeCpus(['0', '1', undefined]);
    expect(physicalCores(folder, statusOf('0-2'))).toBe(2);
  });

  it('are unknown where the system does not say', () => {
    expect(physicalCores(folder, join(folder, 'nowhere'))).toBeUndefined();
    expect(physicalCores(join(folder, 'nowhere'), statusOf('0-1'))).toBeUndefined();
    expect(physicalCores(folder, statusOf(''))).toBeUndefined();
  });
});
