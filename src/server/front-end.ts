/**
 * Where a ComfyUI front end is on this machine: the folder that was named, or the packages in the Python environment
 * beside the ComfyUI that was found. Reads, never writes.
 */
import { readdir, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { InvalidRequestError } from '../common/errors.js';

export interface FrontEnd {
  /** Folder of index.html; undefined where there is no front end. */
  readonly root: string | undefined;
  /** Other folders that front ends read, by the path they are served under. */
  readonly mounts: ReadonlyMap<string, string>;
}

/** Environments that installers make, relative to the folder of main.py. */
const ENVIRONMENTS = [
  'venv',
  '.venv',
  'env',
  join('..', 'venv'),
  join('..', '.venv'),
  join('..', 'env'), // Pinokio
  join('..', 'python_embeded'), // the Windows portable build, spelt so
  join('..', 'python_embedded'),
];

/**
 * @param given --front-end-root.
 * @param bases Folders that may have a Python environment: the installation, its base directory.
 * @throws {InvalidRequestError} when the folder that was named holds no index.html
 */
export async function findFrontEnd(given: string | undefined, bases: readonly string[]): Promise<FrontEnd> {
  const packages = await findPackages(bases);
  const mounts = new Map<string, string>();
  const templates = packages.map((folder) => join(folder, 'comfyui_workflow_templates', 'templates'));
  const docs = packages.map((folder) => join(folder, 'comfyui_embedded_docs', 'docs'));
  for (const [path, candidates] of [['/templates', templates] as const, ['/docs', docs] as const]) {
    const folder = await firstWith(candidates, '.');
    if (folder !== undefined) mounts.set(path, folder);
  }
  if (given !== undefined) {
    const root = resolve(given);
    if ((await firstWith([root], 'index.html')) === undefined)
      throw new InvalidRequestError(`--front-end-root: ${root} holds no index.html.`, { details: { root } });
    return { root, mounts };
  }
  const roots = packages.map((folder) => join(folder, 'comfyui_frontend_package', 'static'));
  return { root: await firstWith(roots, 'index.html'), mounts };
}

async function findPackages(bases: readonly string[]): Promise<string[]> {
  const folders: string[] = [];
  for (const base of bases) {
    for (const environment of ENVIRONMENTS.map((path) => join(base, path))) {
      folders.push(join(environment, 'Lib', 'site-packages')); // Windows
      for (const library of ['lib', 'lib64']) {
        const pythons = await readdir(join(environment, library)).catch(() => []);
        for (const name of pythons
          .filter((entry) => entry.startsWith('python3'))
          .sort()
          .reverse())
          folders.push(join(environment, library, name, 'site-packages'));
      }
    }
  }
  const present = await Promise.all(folders.map(async (folder) => ((await isThere(folder)) ? [folder] : [])));
  return present.flat();
}

async function firstWith(folders: readonly string[], name: string): Promise<string | undefined> {
  for (const folder of folders) if (await isThere(join(folder, name))) return folder;
  return undefined;
}

async function isThere(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined && dirname(path) !== path;
}
