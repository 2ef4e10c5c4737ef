/** The command as a process: results, exit codes, and what it says when something is wrong. */
import { spawn, type ChildProcess, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDemoTree, type DemoTree } from '../../src/cli/demo/tree.js';
import { parseSafetensors } from '../../src/formats/index.js';

const main = new URL('../../src/cli/main.ts', import.meta.url).pathname;
const loader = import.meta.resolve('tsx');
let tree: DemoTree;
let folder = '';
let picture = '';
beforeAll(async () => {
  tree = await createDemoTree();
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-cli-'));
  picture = join(folder, 'picture.png');
  await writeFile(picture, tree.picture);
});
afterAll(async () => {
  await tree[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

async function run(...args: string[]): Promise<Result> {
  const child = spawn(process.execPath, ['--import', loader, main, ...args], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (data: Buffer) => (output.stdout += data.toString()));
  child.stderr.on('data', (data: Buffer) => (output.stderr += data.toString()));
  await once(child, 'close');
  return { code: child.exitCode, ...output };
}

const inTree = (...args: string[]): Promise<Result> => run(...args, '--comfyui', tree.root);

describe('encode', () => {
  it('writes features in argument order, with the pixels that the encoder saw', async () => {
    const out = join(folder, 'features.safetensors');
    const result = await inTree(
      'encode',
      picture,
      picture,
      '--model',
      'CLIP-ViT-H-demo.safetensors',
      '--out',
      out,
      '--pixel-values',
      '--json',
    );
    expect(result).toMatchObject({ code: 0 });
    const shown = JSON.parse(result.stdout) as { tensors: { name: string; shape: number[] }[] };
    expect(shown.tensors.map(({ name, shape }) => [name, shape])).toEqual([
      ['last_hidden_state', [2, 257, 160]],
      ['penultimate_hidden_states', [2, 257, 160]],
      ['image_embeds', [2, 128]],
      ['pixel_values', [2, 3, 224, 224]],
    ]);
    const { tensors } = parseSafetensors(await readFile(out));
    const embeds = tensors.get('image_embeds')?.data;
    expect(embeds?.slice(0, 128)).toEqual(embeds?.slice(128));
  });

  it('lets a broken picture fail alone, with exit code 1', async () => {
    await writeFile(join(folder, 'broken.png'), 'no picture');
    const result = await inTree('encode', picture, 'broken.png', '--model', 'CLIP-ViT-H-demo.safetensors', '--json');
    expect(result.code).toBe(1);
    expect(result.stderr).toContain('broken.png is in no picture format');
    expect(result.stdout).toContain('"image_embeds"');
  });

  it('encodes in tiles, leaving out image embeds that cannot be merged', async () => {
    const flags = ['--model', 'CLIP-ViT-H-demo.safetensors', '--tiles', '2', '--tiles-ratio', '0.5', '--json'];
    const shapes = async (...pictures: string[]): Promise<unknown> => {
      const result = await inTree('encode', ...pictures, ...flags);
      expect(result).toMatchObject({ code: 0 });
      const shown = JSON.parse(result.stdout) as { tensors: { name: string; shape: number[] }[] };
      return shown.tensors.map(({ name, shape }) => [name, shape]);
    };
    expect(await shapes(picture)).toEqual([
      ['last_hidden_state', [2, 257, 160]],
      ['penultimate_hidden_states', [2, 257, 160]],
    ]);
    expect(await shapes(picture, picture, picture)).toEqual([
      ['last_hidden_state', [3, 257, 160]],
      ['penultimate_hidden_states', [3, 257, 160]],
    ]);
    const wrong = await inTree('encode', picture, '--model', 'CLIP-ViT-H-demo.safetensors', '--tiles', 'many');
    expect(wrong.code).toBe(2);
    expect(wrong.stderr).toContain('tiles is a whole number from 1 to 16');
  });

  it('names models that come near a missing one', async () => {
    const result = await inTree('encode', picture, '--model', 'clip-vit-h-DEMO');
    expect(result).toMatchObject({ code: 1, stdout: '' });
    expect(result.stderr).toMatch(
      /MODEL_NOT_FOUND: No clip_vision model is called "clip-vit-h-DEMO".*Looked in .*Did you mean CLIP-ViT-H-demo.safetensors\?/,
    );
  });
});

describe('paths, resolve and stats', () => {
  it('agree with each other', async () => {
    const paths = JSON.parse((await inTree('paths', '--list', '--json')).stdout) as {
      folders: {
        name: string;
        files: string[];
        folders: { path: string; origin: { kind: string; line?: number } }[];
      }[];
    };
    const clipVision = paths.folders.find(({ name }) => name === 'clip_vision');
    expect(clipVision?.files).toEqual(['CLIP-ViT-H-demo.safetensors', 'CLIP-ViT-L-demo.safetensors']);
    expect(clipVision?.folders.map(({ origin }) => [origin.kind, origin.line])).toEqual([
      ['default', undefined],
      ['config', 3],
    ]);
    for (const name of clipVision?.files ?? []) {
      const resolved = await inTree('resolve', 'clip_vision', name);
      expect(clipVision?.folders.some(({ path }) => resolved.stdout.startsWith(path))).toBe(true);
    }
    const stats = JSON.parse((await inTree('stats', '--json')).stdout) as { total: { files: number } };
    expect(stats.total.files).toBe(2);
  });

  it('show people where each folder comes from', async () => {
    const { stdout } = await inTree('paths');
    expect(stdout).toMatch(/clip_vision .*models\/clip_vision +default/);
    expect(stdout).toMatch(/more-models\/encoders +.*extra_model_paths.yaml:3 \(more\)/);
    expect(stdout).toMatch(/ipadapter .*models\/ipadapter +beside clip_vision/);
  });

  it('find files of folders that are customary and no types of ComfyUI', async () => {
    const adapter = join(tree.root, 'models', 'ipadapter', 'sub', 'plus.safetensors');
    await mkdir(join(adapter, '..'), { recursive: true });
    await writeFile(adapter, '');
    expect(await inTree('resolve', 'ipadapter', 'sub/plus.safetensors')).toMatchObject({
      code: 0,
      stdout: `${adapter}\n`,
    });
    const missing = await inTree('resolve', 'ipadapter', 'minus.safetensors');
    expect(missing.code).toBe(1);
    expect(missing.stderr).toMatch(/no IP-Adapter "minus.safetensors".*There are sub\/plus.safetensors/);
    await rm(join(tree.root, 'models', 'ipadapter'), { recursive: true });
  });
});

describe('model folders whose configuration is broken', () => {
  it.each(['stats', 'models', 'doctor', 'paths', 'resolve'])('stop %s', async (name) => {
    const file = join(folder, `broken-${name}.yaml`);
    await writeFile(file, 'mine:\n  loras: "D:\\models\\x"\n');
    const result = await inTree(
      name,
      ...(name === 'resolve' ? ['loras', 'x'] : []),
      '--extra-model-paths-config',
      file,
    );
    expect(result.code).toBe(1);
    expect(result.stderr).toContain(`${file}:2:`);
  });
});

describe('a filter that nothing fits', () => {
  it('is named, with what there is', async () => {
    const result = await inTree('models', '--kind', 'loras', '--data-directory', join(folder, 'data-filter'));
    expect(result.code).toBe(0);
    expect(result.stderr).toBe('no model matches\n  no kind is loras; here are clip_vision\n');
  });
});

describe('help', () => {
  it('offers a command that ends by itself no flags of a server', async () => {
    const { stdout } = await run('encode', '--help');
    expect(stdout).toContain('--memory-budget');
    expect(stdout).not.toMatch(/--idle-release|--hash-in-background|--port/);
    expect((await run('serve', '--help')).stdout).toMatch(/--idle-release[\s\S]*--hash-in-background/);
  });
});

describe('wrong usage', () => {
  it.each([
    [['encode', 'x.png'], 2, /required option '--model/],
    [['frobnicate'], 2, /unknown command/],
    [['serve', '--port', '70000'], 2, /--port/],
    [['encode', 'x.png', '--modle', 'y'], 2, /unknown option '--modle'/],
    [['encode', 'x.png', '--model', 'y', '--out', '/nowhere/z'], 2, /--out: there is no folder \/nowhere/],
    [['encode', 'x.png', '--model', 'y', '--out', tmpdir()], 2, /--out: .* is a folder/],
    [['resolve', 'lora', 'x', '--base-directory', tmpdir()], 1, /Did you mean loras\?/],
    [['resolve', 'constructor', 'x', '--base-directory', tmpdir()], 1, /^error FOLDER_UNKNOWN/],
    [['stats', '--base-directory', '/nowhere'], 1, /COMFYUI_NOT_FOUND: The folder \/nowhere.* does not exist/],
    [['serve', '--port', 'abc'], 2, /--port: a number is wanted/],
    [['paths', '--comfyui', '/nowhere'], 1, /COMFYUI_NOT_FOUND: \/nowhere is no ComfyUI/],
  ])('%j exits with %d and says why', async (args, code, message) => {
    const result = await run(...args);
    expect(result.code).toBe(code);
    expect(result.stderr).toMatch(message);
  });

  it('gives a script one JSON document for an error, too', async () => {
    const result = await run('resolve', 'loras', 'x', '--base-directory', tree.root, '--json');
    expect(result.code).toBe(1);
    expect(JSON.parse(result.stdout)).toMatchObject({
      error: { code: 'MODEL_NOT_FOUND', details: { folder: 'loras', name: 'x' } },
    });
  });
});

describe('serve', () => {
  const start = (data: string): ChildProcessByStdio<null, Readable, null> => {
    const args = ['--comfyui', tree.root, '--port', '0', '--data-directory', join(folder, data), '--json'];
    return spawn(process.execPath, ['--import', loader, main, 'serve', ...args], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
  };
  const exitOf = async (child: ChildProcess): Promise<{ code: number | null; signal: NodeJS.Signals | null }> => {
    const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
    return { code, signal };
  };

  it('is ready, answers, and stops on SIGTERM with exit code 0', async () => {
    const child = start('data');
    let text = '';
    for await (const data of child.stdout) {
      text += String(data);
      if (text.includes('}')) break;
    }
    const { url } = JSON.parse(text) as { url: string };
    expect(await (await fetch(`${url}/prompt`)).json()).toEqual({ exec_info: { queue_remaining: 0 } });
    child.kill('SIGTERM');
    expect(await exitOf(child)).toEqual({ code: 0, signal: null });
  });

  it('may be stopped as soon as its address is read, and leaves no temporary folder', async () => {
    const child = start('data-stopped');
    child.stdout.once('data', () => child.kill('SIGTERM'));
    expect(await exitOf(child)).toEqual({ code: 0, signal: null });
    expect(readdirSync(join(folder, 'data-stopped')).filter((name) => name.startsWith('temp'))).toEqual([]);
  });

  it('says that its port is in use', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
    const result = await inTree('serve', '--port', String(port), '--data-directory', join(folder, 'data2'));
    server.close();
    expect(result.code).toBe(1);
    expect(result.stderr).toContain(`PORT_IN_USE: Port ${port} on 127.0.0.1 is taken`);
  });
});

describe('demo', () => {
  it('does the main job and leaves nothing behind', async () => {
    const result = await run('demo');
    expect(result).toMatchObject({ code: 0, stderr: '' });
    expect(result.stdout).toMatch(
      /execution_success[\s\S]*image_embeds +\[1, 128\][\s\S]*CLIP-ViT-H-demo\S+ +clip_vision +\S+ +F16 [\s\S]*Done in/,
    );
    const root = /tree in (\S+),/.exec(result.stdout)?.[1] ?? '/';
    await expect(readFile(join(root, 'main.py'))).rejects.toThrow();
  });
});
