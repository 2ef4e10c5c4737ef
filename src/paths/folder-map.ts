/**
 * Folder types and their folders, in the order in which they are searched. ComfyUI's `folder_names_and_paths`.
 *
 * Paths are compared as text after normalization, as ComfyUI compares them: links and letter case do not make two paths
 * one. Nothing here looks at the disk.
 */
import { currentFolderName, DEFAULT_FOLDERS, OUTPUT_FOLDERS } from './default-folders.js';
import type { PathPlatform } from './path-rules.js';

/** Where a folder comes from, for people. */
export type Origin =
  | { readonly kind: 'default' }
  | { readonly kind: 'output' }
  | { readonly kind: 'config'; readonly file: string; readonly line: number; readonly section: string }
  | { readonly kind: 'running'; readonly url: string }
  | { readonly kind: 'library' };

export interface ModelFolder {
  readonly path: string;
  readonly origin: Origin;
}

export interface FolderType {
  readonly folders: readonly ModelFolder[];
  /** Lower-case endings; empty accepts every file. */
  readonly extensions: ReadonlySet<string>;
}

export class FolderMap {
  readonly #types = new Map<string, { folders: ModelFolder[]; extensions: ReadonlySet<string> }>();

  /** Types in order of definition. */
  names(): string[] {
    return [...this.#types.keys()];
  }

  /** Old names are mapped. */
  get(name: string): FolderType | undefined {
    return this.#types.get(currentFolderName(name));
  }

  /** A type by its exact name: HTTP routes do not know old names. */
  getExact(name: string): FolderType | undefined {
    return this.#types.get(name);
  }

  define(name: string, extensions: readonly string[]): void {
    this.#types.set(name, { folders: [], extensions: new Set(extensions) });
  }

  /**
   * ComfyUI's `add_model_folder_path`: appended, or with `isDefault` put first; one that is there already stays where it
   * is, or moves to the front. A type that does not exist is made, and accepts every file.
   */
  add(name: string, folder: ModelFolder, isDefault = false): void {
    const key = currentFolderName(name);
    const type = this.#types.get(key) ?? { folders: [], extensions: new Set<string>() };
    this.#types.set(key, type);
    const known = type.folders.findIndex(({ path }) => path === folder.path);
    if (known === -1) {
      if (isDefault) type.folders.unshift(folder);
      else type.folders.push(folder);
    } else if (isDefault) {
      type.folders.unshift(...type.folders.splice(known, 1));
    }
  }
}

/** ComfyUI's map before any configuration file, with models, custom_nodes and the rest below one base folder. */
export function createDefaultMap(platform: PathPlatform, baseDirectory: string): FolderMap {
  const map = new FolderMap();
  for (const { name, folders, extensions } of DEFAULT_FOLDERS) {
    map.define(name, extensions);
    for (const folder of folders) {
      map.add(name, { path: joinParts(platform, baseDirectory, folder), origin: { kind: 'default' } });
    }
  }
  return map;
}

/** A map of given folders alone. Types that ComfyUI knows have its endings, others accept every file. */
export function createOwnMap(folders: ReadonlyMap<string, readonly string[]>, origin: Origin): FolderMap {
  const map = new FolderMap();
  for (const [name, paths] of folders) {
    const known = DEFAULT_FOLDERS.find((folder) => folder.name === currentFolderName(name));
    map.define(currentFolderName(name), known?.extensions ?? []);
    for (const path of paths) map.add(name, { path, origin });
  }
  return map;
}

/** The model folders below the output folder; last, and unless already there. */
export function addOutputFolders(map: FolderMap, platform: PathPlatform, outputDirectory: string): void {
  for (const [name, folder] of OUTPUT_FOLDERS) {
    map.add(name, { path: joinParts(platform, outputDirectory, folder), origin: { kind: 'output' } });
  }
}

/** Joins a path of ours, written with `/`. */
function joinParts({ rules }: PathPlatform, base: string, path: string): string {
  return path.split('/').reduce((joined, part) => rules.join(joined, part), base);
}
