/** The server as a process of its own: where it listens, what it logged, what memory it holds, and its end. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createDemoTree } from '../../src/cli/demo/tree.js';

const MAIN = new URL('../../src/cli/main.ts', import.meta.url).pathname;
const LOADER = import.meta.resolve('tsx');

export interface ServedProcess extends AsyncDisposable {
  readonly url: string;
  /** A PNG. */
  readonly picture: Uint8Array<ArrayBuffer>;
  /** Lines of the log, errors only. */
  readonly log: string;
  readonly isRunning: boolean;
  /** Linux only. */
  residentMb(): number;
}

/** Starts `serve` over a throw-away tree. */
export async function startServedProcess(...flags: string[]): Promise<ServedProcess> {
  const tree = await createDemoTree();
  const folders = ['--comfyui', tree.root, '--data-directory', tree.dataDirectory];
  const args = ['--import', LOADER, MAIN, 'serve', '--json', '--port', '0', '--log-level', 'error', ...folders];
  const child = spawn(process.execPath, [...args, ...flags], { stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let log = '';
  child.stderr.on('data', (data: Buffer) => (log += data.toString()));
  const exited = once(child, 'exit');
  while (!out.includes('}')) {
    const [data] = (await Promise.race([once(child.stdout, 'data'), exited.then(() => [])])) as [Buffer?];
    if (data === undefined) throw new Error(`the server did not start: ${log}`);
    out += data.toString();
  }
  child.stdout.on('data', (data: Buffer) => (log += data.toString()));
  const { url } = JSON.parse(out) as { url: string };
  const isRunning = (): boolean => child.exitCode === null && child.signalCode === null;
  return {
    url,
    picture: tree.picture,
    get log() {
      return log;
    },
    get isRunning() {
      return isRunning();
    },
    residentMb() {
      const status = readFileSync(`/proc/${child.pid ?? 'self'}/status`, 'utf8');
      return (Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) * 1024) / 1e6;
    },
    async [Symbol.asyncDispose]() {
      if (isRunning()) child.kill('SIGTERM');
      await exited;
      await tree[Symbol.asyncDispose]();
    },
  };
}
