import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ComfyUIPathResolver, detectComfyUIInstallation, ModelPathConfig } from '../../../src/index.js';

let home = '';
beforeAll(async () => {
  home = await realpath(await mkdtemp(join(tmpdir(), 'vision-bridge-library-')));
});
afterAll(() => rm(home, { recursive: true }));

async function makeInstallation(folder: string): Promise<string> {
  await mkdir(join(folder, 'comfy'), { recursive: true });
  for (const name of ['main.py', 'folder_paths.py']) await writeFile(join(folder, name), '');
  await writeFile(join(folder, 'comfyui_version.py'), '__version__ = "0.3.64"\n');
  return folder;
}

async function makeFile(path: string, size = 3): Promise<void> {
  await mkdir(join(path, '..'), { recursive: true });
  await writeFile(path, Buffer.alloc(size));
}

describe('detectComfyUIInstallation', () => {
  const elsewhere = (): string => join(home, 'nowhere', 'deep');

  it('finds the working folder, and the installation that a custom node lies in', async () => {
    const root = await makeInstallation(join(home, 'work', 'ComfyUI'));
    expect(detectComfyUIInstallation({ workingDirectory: root, home: elsewhere() })).toMatchObject({
      root,
      foundBy: 'the working folder',
      version: '0.3.64',
    });
    const inside = join(root, 'custom_nodes', 'pack');
    expect(detectComfyUIInstallation({ workingDirectory: inside, home: elsewhere() })).toMatchObject({
      root,
      foundBy: 'a parent of the working folder',
    });
    expect(detectComfyUIInstallation({ workingDirectory: join(home, 'work'), home: elsewhere() })).toMatchObject({
      root,
    });
  });

  it("finds comfy-cli's default workspace, Pinokio and Stability Matrix", async () => {
    const user = join(home, 'user');
    const options = { workingDirectory: elsewhere(), home: user, platform: 'linux' as const };
    const pinokio = await makeInstallation(join(user, 'pinokio', 'api', 'comfy.git', 'app'));
    expect(detectComfyUIInstallation(options)).toMatchObject({ root: pinokio, foundBy: 'Pinokio' });
    const matrix = await makeInstallation(join(user, '.config', 'StabilityMatrix', 'Packages', 'ComfyUI'));
    expect(detectComfyUIInstallation(options)).toMatchObject({ root: matrix, foundBy: 'Stability Matrix' });
    const clone = await makeInstallation(join(user, 'ComfyUI'));
    expect(detectComfyUIInstallation(options)).toMatchObject({ root: clone, foundBy: 'the usual place of a clone' });
    const workspace = await makeInstallation(join(home, 'my workspace'));
    await makeFile(join(user, '.config', 'comfy-cli', 'config.ini'));
    await writeFile(join(user, '.config', 'comfy-cli', 'config.ini'), `[DEFAULT]\ndefault_workspace = ${workspace}\n`);
    expect(detectComfyUIInstallation(options)).toMatchObject({
      root: workspace,
      foundBy: "comfy-cli's default workspace",
    });
  });

  it('finds ComfyUI Desktop with its data folder and its own configuration', async () => {
    const user = join(home, 'winuser');
    const program = await makeInstallation(
      join(user, 'AppData', 'Local', 'Programs', 'ComfyUI', 'resources', 'ComfyUI'),
    );
    const settings = join(user, 'AppData', 'Roaming', 'ComfyUI');
    await makeFile(join(settings, 'extra_models_config.yaml'));
    await writeFile(join(settings, 'config.json'), JSON.stringify({ basePath: 'D:\\data' }));
    expect(detectComfyUIInstallation({ workingDirectory: elsewhere(), home: user, platform: 'win32' })).toEqual({
      root: program,
      foundBy: 'the settings of ComfyUI Desktop',
      version: '0.3.64',
      baseDirectory: 'D:\\data',
      extraModelPathsConfigs: [join(settings, 'extra_models_config.yaml')],
    });
  });

  it('finds the installations of the second Comfy Desktop, with the models they share', async () => {
    const user = join(home, 'desktop2');
    const root = await makeInstallation(join(home, 'installs', 'one', 'ComfyUI'));
    const settings = join(user, 'AppData', 'Roaming', 'Comfy Desktop');
    await makeFile(join(settings, 'shared_model_paths.yaml'));
    await writeFile(
      join(settings, 'installations.json'),
      JSON.stringify([{ id: 'x', installPath: join(home, 'installs', 'one') }]),
    );
    expect(detectComfyUIInstallation({ workingDirectory: elsewhere(), home: user, platform: 'win32' })).toMatchObject({
      root,
      foundBy: 'the installations of Comfy Desktop',
      extraModelPathsConfigs: [join(settings, 'shared_model_paths.yaml')],
    });
    await writeFile(join(settings, 'installations.json'), '{"broken"');
    expect(detectComfyUIInstallation({ workingDirectory: elsewhere(), home: user, platform: 'win32' })).toBeUndefined();
  });

  it('looks at the given paths only, through links, and finds nothing where nothing is', async () => {
    const root = await makeInstallation(join(home, 'given', 'ComfyUI'));
    await symlink(root, join(home, 'link'));
    expect(detectComfyUIInstallation({ searchPaths: [join(home, 'empty'), join(home, 'link')] })).toMatchObject({
      root,
    });
    expect(detectComfyUIInstallation({ searchPaths: [join(home, 'given')] })).toMatchObject({ root });
    expect(detectComfyUIInstallation({ searchPaths: [] })).toBeUndefined();
  });
});

describe('ComfyUIPathResolver', () => {
  it('agrees with the configuration of the installation, and counts files and bytes', async () => {
    const root = await makeInstallation(join(home, 'stats', 'ComfyUI'));
    await makeFile(join(root, 'models', 'loras', 'a.safetensors'), 10);
    await makeFile(join(root, 'models', 'loras', 'sub', 'b.pt'), 5);
    await makeFile(join(home, 'stats', 'more', 'a.safetensors'), 99);
    await makeFile(join(home, 'stats', 'more', 'c.safetensors'), 7);
    await symlink(join(root, 'models', 'loras', 'a.safetensors'), join(root, 'models', 'loras', 'same.safetensors'));
    await writeFile(join(root, 'extra_model_paths.yaml'), 'm:\n  loras: ../more\n');
    const resolver = ComfyUIPathResolver.fromComfyUI(root);
    expect(resolver.getPaths('loras')).toEqual([
      join(root, 'models', 'loras'),
      join(home, 'stats', 'more'),
      join(root, 'output', 'loras'),
    ]);
    const names = (await resolver.scanModels('loras')).map(({ name, sizeBytes }) => [name, sizeBytes]);
    // The first folder hides a name of a later one.
    expect(names).toEqual([
      ['a.safetensors', 10],
      ['c.safetensors', 7],
      ['same.safetensors', 10],
      ['sub/b.pt', 5],
    ]);
    const stats = await resolver.getStats();
    expect(stats.find(({ folder }) => folder === 'loras')).toEqual({ folder: 'loras', files: 3, sizeBytes: 22 });
    expect(await resolver.resolve('loras', '../../sub/b.pt')).toBe(join(root, 'models', 'loras', 'sub', 'b.pt'));
    expect(() => resolver.getPaths('lora')).toThrow(/Did you mean loras/);
  });

  it('is refused for a folder that is no ComfyUI, and names every place when nothing is found', () => {
    expect(() => ComfyUIPathResolver.fromComfyUI(join(home, 'nowhere'))).toThrow(/is no ComfyUI/);
    expect(() => ComfyUIPathResolver.fromAutoDetect({ searchPaths: ['/one', '/two'] })).toThrow(
      /--comfyui FOLDER.*\/one, \/two/,
    );
  });
});

describe('ModelPathConfig', () => {
  it('holds several folders per type, links resolved, none twice', async () => {
    const real = join(home, 'config', 'real');
    await makeFile(join(real, 'x.safetensors'));
    await symlink(real, join(home, 'config', 'alias'));
    const config = new ModelPathConfig({ loras: [real] })
      .addModelPath('loras', join(home, 'config', 'alias'))
      .addModelPath('loras', join(home, 'later'));
    expect(config.getPaths('loras')).toEqual([real, join(home, 'later')]);
    expect(config.getPaths('vae')).toEqual([]);
    expect(await ComfyUIPathResolver.fromConfig(config).resolve('loras', 'x.safetensors')).toBe(
      join(real, 'x.safetensors'),
    );
  });

  it('from a root has the default folders of ComfyUI', () => {
    expect(ModelPathConfig.fromRoot(join(home, 'r')).getPaths('diffusion_models')).toEqual([
      join(home, 'r', 'models', 'unet'),
      join(home, 'r', 'models', 'diffusion_models'),
      join(home, 'r', 'output', 'diffusion_models'),
    ]);
  });
});
