/** One set of folders, asked in every way there is: command line, library, and the server's routes. */
import { spawnSync } from 'node:child_process';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ComfyUIPathResolver } from '../../src/index.js';
import { startTestBridge, type TestBridge } from '../support/bridge.js';

const main = new URL('../../src/cli/main.ts', import.meta.url).pathname;
let started: TestBridge;
beforeAll(async () => {
  started = await startTestBridge();
  const { root } = started.tree;
  const extra = join(root, '..', 'extra');
  for (const folder of ['loras/sub', 'first', 'unet']) await mkdir(join(extra, folder), { recursive: true });
  for (const file of [
    'loras/b.safetensors',
    'loras/sub/a b.pt',
    'first/b.safetensors',
    'unet/u.gguf',
    'unet/u.sft',
    'loras/😀.pt',
  ])
    await writeFile(join(extra, file), 'x');
  await writeFile(join(root, 'models', 'loras', 'own.safetensors'), 'x');
  await symlink(join(extra, 'loras', 'sub'), join(root, 'models', 'loras', 'link'));
  await writeFile(
    join(root, 'extra_model_paths.yaml'),
    'a:\n  base_path: ../extra\n  loras: loras\n  unet: unet\n  my_type: unet\nb:\n  base_path: ../extra\n  is_default: true\n  loras: first\n',
  );
});
afterAll(() => started[Symbol.asyncDispose]());

function command(...args: string[]): { stdout: string } {
  return spawnSync(
    process.execPath,
    ['--import', import.meta.resolve('tsx'), main, ...args, '--comfyui', started.tree.root],
    { encoding: 'utf8' },
  );
}

it('paths --list, resolve, getPaths, scanModels and /models agree', async () => {
  // The server was started before the configuration was written; it takes it up by itself.
  const get = async (path: string): Promise<unknown> => (await fetch(started.url + path)).json();
  while (!JSON.stringify(await get('/models')).includes('my_type'))
    await new Promise((resolve) => setTimeout(resolve, 50));

  const shown = JSON.parse(command('paths', '--list', '--json').stdout) as {
    folders: { name: string; files: string[]; folders: { path: string }[] }[];
  };
  const resolver = ComfyUIPathResolver.fromComfyUI(started.tree.root);
  expect(resolver.types()).toEqual(shown.folders.map(({ name }) => name));
  expect(await get('/models')).toEqual(shown.folders.map(({ name }) => name));
  for (const { name, files, folders } of shown.folders) {
    expect(resolver.getPaths(name)).toEqual(folders.map(({ path }) => path));
    expect(await get(`/models/${name}`)).toEqual(files);
    const scanned = await resolver.scanModels(name);
    expect(scanned.map((file) => file.name)).toEqual(files);
  }
  const loras = shown.folders.find(({ name }) => name === 'loras');
  expect(loras?.files).toEqual(['b.safetensors', 'link/a b.pt', 'own.safetensors', 'sub/a b.pt', '😀.pt']);
  for (const file of loras?.files ?? []) {
    expect(command('resolve', 'loras', file).stdout.trim()).toBe(await resolver.resolve('loras', file));
  }
  // The default section comes first and hides the same name of the other.
  expect(await resolver.resolve('loras', 'b.safetensors')).toMatch(/extra\/first\/b.safetensors$/);
  expect((await fetch(`${started.url}/models/unet`)).status).toBe(404);
});
