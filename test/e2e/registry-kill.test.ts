/** A scan that is killed leaves an index that opens and completes. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { kohyaLora, writeSparseModel } from '../support/model-files.js';
import { seededRandom } from '../support/random.js';

const FILES = 600;
const KILLS = 20;
/** Longer than a scan of the tree takes. */
const LONGEST_WAIT_MS = 600;
const script = new URL('../support/scan-process.ts', import.meta.url).pathname;

it('completes after 20 kills at random moments, and reads no file for nothing', { timeout: 180_000 }, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'registry-kill-'));
  const data = join(folder, 'data');
  const next = seededRandom(7);
  const start = (): ReturnType<typeof spawn> =>
    spawn(process.execPath, ['--import', import.meta.resolve('tsx'), script, folder, data], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
  try {
    for (let i = 0; i < FILES; i += 1) {
      await writeSparseModel(join(folder, 'models/loras', `${i}.safetensors`), kohyaLora(60 + (i % 50), 1 + (i % 32)));
    }
    for (let kill = 0; kill < KILLS; kill += 1) {
      const child = start();
      // A fast machine may have finished before the kill.
      const closed = once(child, 'close');
      if (child.stdout !== null) await once(child.stdout, 'data');
      await sleep(next() * LONGEST_WAIT_MS);
      child.kill('SIGKILL');
      await closed;
    }
    const run = async (): Promise<unknown> => {
      const child = start();
      let text = '';
      child.stdout?.on('data', (chunk: Buffer) => (text += chunk.toString()));
      await once(child, 'close');
      expect(child.exitCode).toBe(0);
      return JSON.parse(text.split('\n')[1] ?? '');
    };
    expect(await run()).toMatchObject({ files: FILES, total: { files: FILES, broken: 0 } });
    expect(await run()).toMatchObject({ files: FILES, read: 0, total: { files: FILES, broken: 0 } });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
