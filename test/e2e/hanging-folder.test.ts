/**
 * A model folder on a disk whose server is gone: every call of the system about it waits in the kernel for ever. Everything
 * else works meanwhile, doctor tells of it, and commands and servers end.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdir, open, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDemoTree, type DemoTree } from '../../src/cli/demo/tree.js';

const MAIN = new URL('../../src/cli/main.ts', import.meta.url).pathname;
const HANGING = new URL('../support/hanging-folder.js', import.meta.url).pathname;
const LORA = new URL('../golden/models/lora-wan.safetensors', import.meta.url).pathname;
/** Half a minute of it is the time that a folder may take to answer. */
const DOCTOR_MS = 150_000;

interface Ended {
  readonly out: string;
  readonly log: string;
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

// The table of mounts, and pipes, are Linux's.
describe.skipIf(process.platform !== 'linux')('a folder that hangs', () => {
  let tree: DemoTree;
  let folder: string;
  let pipe: string;
  beforeAll(async () => {
    tree = await createDemoTree();
    folder = join(dirname(tree.root), 'share', 'gone');
    pipe = join(dirname(tree.root), 'pipe');
    await mkdir(folder, { recursive: true });
    expect(spawnSync('mkfifo', [pipe]).status).toBe(0);
    await copyFile(LORA, join(tree.root, 'models', 'loras', 'here.safetensors'));
    await writeFile(
      join(tree.root, 'extra_model_paths.yaml'),
      'share:\n  base_path: ../share\n  loras: gone\n  clip_vision: gone/encoders\n',
    );
  });
  const children: ChildProcess[] = [];
  afterAll(async () => {
    for (const child of children) child.kill('SIGKILL');
    // Lets go whoever still waits.
    const writer = await open(pipe, 'r+');
    await writer.close();
    await tree[Symbol.asyncDispose]();
  });

  function start(command: string, ...flags: string[]): ChildProcess {
    const folders = ['--comfyui', tree.root, '--data-directory', join(tree.dataDirectory, command)];
    const args = ['--import', import.meta.resolve('tsx'), MAIN, command, '--json', ...folders, ...flags];
    const env = { ...process.env, NODE_OPTIONS: `--import ${HANGING}`, HANGING_FOLDER: folder, HANGING_PIPE: pipe };
    const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
    children.push(child);
    return child;
  }

  async function endOf(child: ChildProcess): Promise<Ended> {
    let [out, log] = ['', ''];
    child.stdout?.on('data', (data: Buffer) => (out += data.toString()));
    child.stderr?.on('data', (data: Buffer) => (log += data.toString()));
    const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
    return { out, log, code, signal };
  }

  it(
    'is told by doctor, which tells of the other folders too, and ends',
    async () => {
      const { out, log, signal } = await endOf(start('doctor'));
      const { issues } = JSON.parse(out) as { issues: Record<string, string>[] };
      const told = issues.filter(({ kind }) => kind === 'root');
      expect(told.map(({ path, severity }) => [path, severity]).sort()).toEqual([
        [folder, 'error'],
        [join(folder, 'encoders'), 'error'],
      ]);
      for (const { problem, fix } of told) {
        expect(problem).toContain('it does not answer');
        expect(fix).toBe('Is its disk or share there?');
      }
      // A thread that waits in the kernel lets nothing but a signal end the process.
      expect(signal).toBe('SIGKILL');
      expect(log).toContain('a disk that does not answer holds a thread of this process');
    },
    DOCTOR_MS,
  );

  it(
    'keeps nobody waiting for the rest of a server',
    async () => {
      const child = start('serve', '--port', '0', '--log-level', 'error');
      const ended = endOf(child);
      let out = '';
      child.stdout?.on('data', (data: Buffer) => (out += data.toString()));
      await expect.poll(() => out, { timeout: 60_000 }).toContain('}');
      const { url } = JSON.parse(out) as { url: string };
      const get = async (path: string): Promise<unknown> => (await fetch(url + path)).json();
      expect(await get('/system_stats')).toMatchObject({ system: { comfyui_version: '0.3.64' } });
      // The files of other folders are known while the scan still waits for this one.
      const findLora = async (): Promise<unknown> => get('/bridge/v1/models?kind=lora');
      await expect.poll(findLora, { timeout: 20_000 }).toMatchObject({ models: [{ name: 'here.safetensors' }] });
      expect(await get('/bridge/v1/stats')).toMatchObject({
        total: { files: 2 },
        scan: { state: expect.stringMatching(/walking|reading/) as string },
      });
      child.kill('SIGTERM');
      const { code, signal } = await ended;
      expect([code, signal]).toEqual([null, 'SIGKILL']);
    },
    DOCTOR_MS,
  );
});
