/**
 * Recorded conversations with ComfyUI 0.3.64, played against the real server. Format: the README beside this file.
 *
 * The folder holds the recordings whose nodes and routes are served; `GOLDEN_PROTOCOL_DIR` names another folder.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { replay, scenarioSchema } from './replayer.js';

const folder = resolve(process.env['GOLDEN_PROTOCOL_DIR'] ?? join(import.meta.dirname, 'scenarios'));
const scenarios = readdirSync(folder)
  .filter((file) => file.endsWith('.json'))
  .map((file) => scenarioSchema.parse(JSON.parse(readFileSync(join(folder, file), 'utf8'))));

describe('a recorded conversation', () => {
  it.each(scenarios)('$name: $description', async (scenario) => {
    expect(await replay(scenario)).toEqual([]);
  });
});
