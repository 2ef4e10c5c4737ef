/** A real `vision-bridge serve` over one model: seconds to the first feature, and memory while it runs and after. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, symlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { residentMb } from './memory.js';

const MAIN = new URL('../../../dist/cli/main.js', import.meta.url).pathname;
const IDLE_RELEASE_S = 2;
const REQUESTS = 5;

interface ServedFigures {
  /** From the start of the server's process to the answer to its first request. */
  readonly start_to_first_s: number;
  /** Of that, from the request on. */
  readonly first_s: number;
  readonly peak_mb: number;
  readonly idle_mb: number;
}

export async function measureServed(
  folder: string,
  model: string,
  dataDirectory: string,
  png: Buffer,
): Promise<ServedFigures> {
  const base = join(folder, 'base');
  mkdirSync(join(base, 'models', 'clip_vision'), { recursive: true });
  symlinkSync(model, join(base, 'models', 'clip_vision', basename(model)));
  const started = performance.now();
  const args = ['serve', '--json', '--port', '0', '--log-level', 'error', '--base-directory', base];
  const more = ['--data-directory', dataDirectory, '--idle-release', String(IDLE_RELEASE_S), '--no-feature-store'];
  const server = spawn(process.execPath, [MAIN, ...args, ...more], { stdio: ['ignore', 'pipe', 'inherit'] });
  let peak = 0;
  const sampler = setInterval(() => {
    peak = Math.max(peak, residentMb(server.pid));
  }, 50);
  try {
    const [line] = (await once(server.stdout, 'data')) as [Buffer];
    const { url } = JSON.parse(line.toString()) as { url: string };
    const encode = async (): Promise<void> => {
      const form = new FormData();
      form.set('image', new Blob([Uint8Array.from(png)]), 'picture.png');
      const address = `${url}/bridge/v1/encode?model=${basename(model)}&precision=int8`;
      const response = await fetch(address, { method: 'POST', body: form });
      const bytes = await response.arrayBuffer();
      if (response.status !== 200) throw new Error(Buffer.from(bytes).toString());
    };
    const asked = performance.now();
    await encode();
    const answered = performance.now();
    for (let i = 1; i < REQUESTS; i += 1) await encode();
    await sleep((IDLE_RELEASE_S + 4) * 1000);
    return {
      start_to_first_s: (answered - started) / 1000,
      first_s: (answered - asked) / 1000,
      peak_mb: peak,
      idle_mb: residentMb(server.pid),
    };
  } finally {
    clearInterval(sampler);
    if (server.exitCode === null) {
      server.kill('SIGTERM');
      await once(server, 'exit');
    }
  }
}

/** Seconds of a whole `vision-bridge encode`, from the command to its end. */
export function measureCommand(model: string, dataDirectory: string, picture: string, target: string): number {
  const begin = performance.now();
  const args = ['encode', picture, '--model', model, '--precision', 'int8', '--no-feature-store'];
  execFileSync(process.execPath, [MAIN, ...args, '--data-directory', dataDirectory, '--out', target], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  return (performance.now() - begin) / 1000;
}
