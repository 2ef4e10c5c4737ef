/**
 * Recorded conversations with ComfyUI 0.3.64, played against the real server. Format: the README beside this file.
 *
 * The folder holds recordings; `GOLDEN_PROTOCOL_DIR` names another folder.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { DIFFERENCES } from './differences.js';
import { replay } from './replayer.js';
import { parseScenario } from './scenario.js';

const folder = resolve(process.env['GOLDEN_PROTOCOL_DIR'] ?? join(import.meta.dirname, 'scenarios'));
const scenarios = readdirSync(folder)
  .filter((file) => file.endsWith('.json'))
  .map((file) => parseScenario(readFileSync(join(folder, file), 'utf8')));
const differencesOf = (name: string): typeof DIFFERENCES => DIFFERENCES.filter(({ scenario }) => scenario === name);

describe('a recorded conversation', () => {
  // Some recordings race delays of their own, of 50 ms: a machine that stalls may lose once.
  it.each(scenarios)('$name: $description', { retry: 1 }, async (scenario) => {
    expect(await replay(scenario, differencesOf(scenario.name))).toEqual([]);
  });

  it('is known for each intended difference', () => {
    const names = new Set(scenarios.map(({ name }) => name));
    const named = DIFFERENCES.map(({ scenario }) => scenario);
    // A folder of one's own need not hold them all.
    if (process.env['GOLDEN_PROTOCOL_DIR'] === undefined) expect(named.filter((name) => !names.has(name))).toEqual([]);
  });
});
