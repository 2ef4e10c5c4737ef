/**
 * Where IP-Adapters, their encoders and face networks lie.
 *
 * `ipadapter` and `insightface` are folders that extensions made customary, and no types of ComfyUI's own: they are looked
 * for where a configuration names them, and beside the folders that ComfyUI has.
 */
import { existsSync } from 'node:fs';
import { basename, dirname, extname, join } from 'node:path';
import type { ModelCandidate, ModelSource } from '../adapter/index.js';
import { ModelNotFoundError } from '../common/errors.js';
import { FolderPaths } from '../paths/index.js';

const ADAPTER_ENDINGS = new Set(['.safetensors', '.bin', '.pt', '.pth', '.ckpt']);
/** A type of ComfyUI's whose folders others lie beside. */
const NEIGHBOUR = 'clip_vision';

export interface AdapterFolders {
  readonly adapters: ModelSource;
  readonly encoders: ModelSource;
  readonly facePacks: ModelSource;
}

const CUSTOMARY_TYPES = ['ipadapter', 'insightface'] as const;

/** Where we look for files of customary types, beside what a configuration names for them. */
export function customaryFolders(paths: FolderPaths): { readonly name: string; readonly folders: readonly string[] }[] {
  return CUSTOMARY_TYPES.map((name) => ({ name, folders: neighbours(paths, name) }));
}

/** Sources over the user's folders; what is configured anew is seen at once. */
export function adapterFolders(paths: FolderPaths): AdapterFolders {
  return {
    adapters: filesOf(
      () => foldersOf(paths, 'ipadapter'),
      'IP-Adapter',
      (name) => ADAPTER_ENDINGS.has(extname(name).toLowerCase()),
    ),
    encoders: {
      places: () => (paths.has(NEIGHBOUR) ? paths.folders(NEIGHBOUR).map(({ path }) => path) : []),
      async list() {
        const found: ModelCandidate[] = [];
        for (const name of paths.has(NEIGHBOUR) ? await paths.list(NEIGHBOUR) : []) {
          const path = await paths.find(NEIGHBOUR, name);
          if (path !== undefined) found.push({ name, path });
        }
        return found;
      },
      resolve: (name) => paths.resolve(NEIGHBOUR, name),
    },
    facePacks: packsOf(() => foldersOf(paths, 'insightface')),
  };
}

/** Folders of a type that ComfyUI does not know: those configured, and those beside the folders it does know. */
function foldersOf(paths: FolderPaths, type: (typeof CUSTOMARY_TYPES)[number]): string[] {
  const configured = paths.has(type) ? paths.folders(type).map(({ path }) => path) : [];
  return [...new Set([...configured, ...neighbours(paths, type)])];
}

/** Those that a configuration does not name. */
function neighbours(paths: FolderPaths, type: string): string[] {
  const known = new Set(paths.has(type) ? paths.folders(type).map(({ path }) => path) : []);
  const beside = paths.has(NEIGHBOUR) ? paths.folders(NEIGHBOUR).map(({ path }) => join(dirname(path), type)) : [];
  return [...new Set(beside)].filter((path) => !known.has(path));
}

function filesOf(folders: () => string[], kind: string, isWanted: (name: string) => boolean): ModelSource {
  const TYPE = 'files';
  const open = (): FolderPaths =>
    FolderPaths.ofFolders(new Map([[TYPE, folders().filter((path) => existsSync(path))]]));
  const list = async (): Promise<ModelCandidate[]> => {
    const paths = open();
    const found: ModelCandidate[] = [];
    for (const name of (await paths.list(TYPE)).filter(isWanted)) {
      const path = await paths.find(TYPE, name);
      if (path !== undefined) found.push({ name: name.replaceAll('\\', '/'), path });
    }
    return found;
  };
  return {
    places: folders,
    list,
    async resolve(name) {
      const path = await open().find(TYPE, name);
      if (path !== undefined) return path;
      const known = (await list()).map((candidate) => candidate.name);
      throw new ModelNotFoundError(
        `There is no ${kind} "${name}". Looked in ${folders().join(', ') || 'no folder'}. ${known.length === 0 ? 'There are none there.' : `There are ${known.slice(0, MAX_NAMED).join(', ')}${known.length > MAX_NAMED ? ', …' : ''}.`}`,
        { details: { name, searched: folders() } },
      );
    },
  };
}

const MAX_NAMED = 20;

/** A pack is a folder with ONNX files in it, named after that folder. */
function packsOf(folders: () => string[]): ModelSource {
  const files = filesOf(folders, 'face network', (name) => extname(name).toLowerCase() === '.onnx');
  const list = async (): Promise<ModelCandidate[]> => {
    const packs = new Map<string, string>();
    for (const { path } of await files.list()) {
      const folder = dirname(path);
      if (!packs.has(basename(folder))) packs.set(basename(folder), folder);
    }
    return [...packs].map(([name, path]) => ({ name, path }));
  };
  return {
    places: folders,
    list,
    async resolve(name) {
      const packs = await list();
      const found = packs.find((pack) => pack.name === name);
      if (found !== undefined) return found.path;
      throw new ModelNotFoundError(
        `There is no pack of face networks "${name}". Looked in ${folders().join(', ') || 'no folder'}. ${packs.length === 0 ? 'There are none there.' : `There are ${packs.map((pack) => pack.name).join(', ')}.`}`,
        { details: { name, searched: folders() } },
      );
    },
  };
}
