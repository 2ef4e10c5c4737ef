/**
 * Finding a ComfyUI without being told: the working folder, then the usual places of its installers.
 *
 * Never searches a disk: every place is named. Each finding says how it was found. Reads, never writes.
 */
import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import * as z from 'zod';

export interface ComfyUIInstallation {
  /** Folder of main.py, links resolved. */
  readonly root: string;
  /** For people: `the working folder`, `comfy-cli's default workspace`. */
  readonly foundBy: string;
  /** ComfyUI's own version, where the installation tells. */
  readonly version: string | undefined;
  /** Where models, input and output are, when the installer keeps them apart from the program. */
  readonly baseDirectory?: string;
  /** Further configuration files that the installer starts ComfyUI with. */
  readonly extraModelPathsConfigs: readonly string[];
}

export interface DetectionOptions {
  /** Replaces the list of places. */
  readonly searchPaths?: readonly string[];
  readonly workingDirectory?: string;
  readonly home?: string;
  readonly platform?: NodeJS.Platform;
}

interface Place {
  readonly path: string;
  readonly foundBy: string;
  readonly baseDirectory?: string;
  readonly extraModelPathsConfigs?: readonly string[];
}

/** The first installation, or undefined. */
export function detectComfyUIInstallation(options: DetectionOptions = {}): ComfyUIInstallation | undefined {
  for (const place of places(options)) {
    const found = readInstallation(place);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** Every place that is looked at, in order; for messages. */
export function searchedPlaces(options: DetectionOptions = {}): readonly string[] {
  return places(options).map(({ path }) => path);
}

/** Whether a folder is an installation: main.py, folder_paths.py and comfy/. */
export function isComfyUIInstallation(folder: string): boolean {
  return isFile(join(folder, 'main.py')) && isFile(join(folder, 'folder_paths.py')) && isFolder(join(folder, 'comfy'));
}

function readInstallation({
  path,
  foundBy,
  baseDirectory,
  extraModelPathsConfigs = [],
}: Place): ComfyUIInstallation | undefined {
  const folder = [path, join(path, 'ComfyUI')].find(isComfyUIInstallation);
  if (folder === undefined) return undefined;
  const root = realpathSync(folder);
  return {
    root,
    foundBy,
    version: readVersion(root),
    extraModelPathsConfigs,
    ...(baseDirectory === undefined ? {} : { baseDirectory }),
  };
}

function readVersion(root: string): string | undefined {
  try {
    return /__version__ = "([^"]+)"/.exec(readFileSync(join(root, 'comfyui_version.py'), 'utf8'))?.[1];
  } catch {
    return undefined;
  }
}

function places(options: DetectionOptions): Place[] {
  if (options.searchPaths !== undefined)
    return options.searchPaths.map((path) => ({ path: resolve(path), foundBy: 'the given search paths' }));
  const home = options.home ?? homedir();
  const platform = options.platform ?? process.platform;
  return [
    ...workingPlaces(options.workingDirectory ?? process.cwd()),
    ...comfyCliPlaces(home, platform),
    ...desktopPlaces(home, platform),
    ...secondDesktopPlaces(home, platform),
    ...usualPlaces(home, platform),
  ];
}

/** The working folder and its parents; a custom node's folder lies inside its ComfyUI. */
function workingPlaces(folder: string): Place[] {
  const found: Place[] = [];
  for (let path = resolve(folder); ; path = dirname(path)) {
    found.push({ path, foundBy: found.length === 0 ? 'the working folder' : 'a parent of the working folder' });
    if (dirname(path) === path) return found;
  }
}

function configFolder(home: string, platform: NodeJS.Platform): string {
  if (platform === 'win32') return join(home, 'AppData', 'Roaming');
  return platform === 'darwin' ? join(home, 'Library', 'Application Support') : join(home, '.config');
}

/** comfy-cli keeps its workspaces in an ini file. */
function comfyCliPlaces(home: string, platform: NodeJS.Platform): Place[] {
  const folder = platform === 'win32' ? join(home, 'AppData', 'Local') : configFolder(home, platform);
  const text = readText(join(folder, 'comfy-cli', 'config.ini'));
  const value = (key: string): string | undefined =>
    new RegExp(`^${key}\\s*=\\s*(.+?)\\s*$`, 'm').exec(text ?? '')?.[1];
  return (['default_workspace', 'recent_workspace'] as const).flatMap((key) => {
    const path = value(key);
    return path === undefined ? [] : [{ path, foundBy: `comfy-cli's ${key.replace('_', ' ')}` }];
  });
}

/** ComfyUI Desktop of the first generation: program and data apart, and a configuration of its own. */
function desktopPlaces(home: string, platform: NodeJS.Platform): Place[] {
  const folder = join(configFolder(home, platform), 'ComfyUI');
  const text = readText(join(folder, 'config.json'));
  const settings = z.object({ basePath: z.string() }).safeParse(parseJsonText(text));
  const programs =
    platform === 'win32'
      ? [join(home, 'AppData', 'Local', 'Programs', 'ComfyUI', 'resources', 'ComfyUI')]
      : platform === 'darwin'
        ? ['/Applications/ComfyUI.app/Contents/Resources/ComfyUI']
        : [];
  if (!settings.success) return [];
  const extra = join(folder, 'extra_models_config.yaml');
  return programs.map((path) => ({
    path,
    foundBy: 'the settings of ComfyUI Desktop',
    baseDirectory: settings.data.basePath,
    extraModelPathsConfigs: existsSync(extra) ? [extra] : [],
  }));
}

const desktopInstallationsSchema = z.array(z.object({ installPath: z.string() }));

/** ComfyUI Desktop of the second generation: several installations in one list, and models shared by a file of its own. */
function secondDesktopPlaces(home: string, platform: NodeJS.Platform): Place[] {
  const folder = join(configFolder(home, platform), 'Comfy Desktop');
  const installations = desktopInstallationsSchema.safeParse(
    parseJsonText(readText(join(folder, 'installations.json'))),
  );
  const shared = join(folder, 'shared_model_paths.yaml');
  return (installations.data ?? []).map(({ installPath }) => ({
    path: installPath,
    foundBy: 'the installations of Comfy Desktop',
    extraModelPathsConfigs: existsSync(shared) ? [shared] : [],
  }));
}

function usualPlaces(home: string, platform: NodeJS.Platform): Place[] {
  const at = (foundBy: string, ...paths: string[]): Place[] => paths.map((path) => ({ path, foundBy }));
  const clones = at(
    'the usual place of a clone',
    join(home, 'ComfyUI'),
    join(home, 'comfy', 'ComfyUI'),
    join(home, 'Documents', 'ComfyUI'),
  );
  const managers = [
    ...at('Stability Matrix', join(configFolder(home, platform), 'StabilityMatrix', 'Packages', 'ComfyUI')),
    ...at('Pinokio', join(home, 'pinokio', 'api', 'comfy.git', 'app')),
  ];
  if (platform === 'win32') {
    const portable = ['C:\\', join(home, 'Downloads'), join(home, 'Desktop')].map((folder) =>
      join(folder, 'ComfyUI_windows_portable'),
    );
    return [
      ...clones,
      ...at('the Windows portable build', ...portable),
      ...at('the usual place of a clone', 'C:\\ComfyUI'),
      ...managers,
    ];
  }
  const containers = [
    '/comfyui',
    '/workspace/ComfyUI',
    '/opt/ComfyUI',
    '/app/ComfyUI',
    '/root/ComfyUI',
    '/stable-diffusion',
  ];
  return [...clones, ...managers, ...at('the usual place in a container', ...containers)];
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function parseJsonText(text: string | undefined): unknown {
  try {
    return text === undefined ? undefined : (JSON.parse(text) as unknown);
  } catch {
    return undefined;
  }
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true;
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}
