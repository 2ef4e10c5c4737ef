/**
 * The user's models by folder name, for programs: from an installation, from a configuration of one's own, or detected.
 */
import { realpathSync, statSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { BridgeError } from '../common/errors.js';
import { FolderPaths, type FolderPathsOptions, type PathProblem } from '../paths/index.js';
import type { ModelRoot } from '../registry/index.js';
import {
  detectComfyUIInstallation,
  isComfyUIInstallation,
  searchedPlaces,
  type DetectionOptions,
} from './detection.js';
import { modelRoots } from './model-roots.js';

export interface ModelFile {
  /** As a workflow names it; `/` between folders. */
  readonly name: string;
  /** Real path, links resolved. */
  readonly path: string;
  readonly sizeBytes: number;
}

export interface FolderStats {
  readonly folder: string;
  readonly files: number;
  readonly sizeBytes: number;
}

/** Folders per type, several of them, links resolved. Keyed by ComfyUI's folder names. */
export class ModelPathConfig {
  readonly #paths = new Map<string, string[]>();

  constructor(paths: Readonly<Record<string, readonly string[]>> = {}) {
    for (const [type, folders] of Object.entries(paths)) {
      for (const folder of folders) this.addModelPath(type, folder);
    }
  }

  /** All default folders below a ComfyUI root, or below any folder with its `models/` layout. */
  static fromRoot(root: string): ModelPathConfig {
    const paths = new FolderPaths({ installDirectory: resolve(root) });
    return new ModelPathConfig(
      Object.fromEntries(paths.names().map((name) => [name, paths.folders(name).map(({ path }) => path)])),
    );
  }

  /** Adds a folder; one that is there already, also through a link, is not added twice. */
  addModelPath(type: string, folder: string): this {
    const path = resolveLinks(folder);
    const folders = this.#paths.get(type) ?? [];
    if (!folders.includes(path)) this.#paths.set(type, [...folders, path]);
    return this;
  }

  getPaths(type: string): readonly string[] {
    return this.#paths.get(type) ?? [];
  }

  types(): readonly string[] {
    return [...this.#paths.keys()];
  }
}

interface FolderSource {
  modelRoots(): readonly ModelRoot[];
  names(): readonly string[];
  getPaths(type: string): readonly string[];
  list(type: string): Promise<readonly string[]>;
  find(type: string, name: string): Promise<string | undefined>;
}

export class ComfyUIPathResolver {
  readonly #source: FolderSource;
  /** The folders themselves, for rooms that look beside those that ComfyUI knows. */
  readonly folderPaths: FolderPaths;
  /** What is wrong in the configuration files, all of it. */
  readonly problems: readonly PathProblem[];

  private constructor(source: FolderSource, paths: FolderPaths) {
    this.#source = source;
    this.folderPaths = paths;
    this.problems = paths.problems;
  }

  /**
   * From an installation: its default folders and its `extra_model_paths.yaml`.
   *
   * @throws {BridgeError} `COMFYUI_NOT_FOUND` when the folder is none.
   */
  static fromComfyUI(root: string, options: Omit<FolderPathsOptions, 'installDirectory'> = {}): ComfyUIPathResolver {
    if (
      !isComfyUIInstallation(root) &&
      statSync(join(root, 'models'), { throwIfNoEntry: false })?.isDirectory() !== true
    ) {
      throw new BridgeError(
        'COMFYUI_NOT_FOUND',
        `${root} is no ComfyUI: it has neither main.py, folder_paths.py and comfy/ nor a models folder.`,
        {
          details: { root },
        },
      );
    }
    return ComfyUIPathResolver.fromFolderPaths(new FolderPaths({ ...options, installDirectory: realpathSync(root) }));
  }

  static fromFolderPaths(paths: FolderPaths): ComfyUIPathResolver {
    const source: FolderSource = {
      names: () => paths.names(),
      getPaths: (type) => paths.folders(type).map(({ path }) => path),
      list: (type) => paths.list(type),
      find: (type, name) => paths.find(type, name),
      modelRoots: () => modelRoots(paths),
    };
    return new ComfyUIPathResolver(source, paths);
  }

  /** From folders of one's own; types that ComfyUI knows list the endings that ComfyUI lists. */
  static fromConfig(config: ModelPathConfig): ComfyUIPathResolver {
    const paths = FolderPaths.ofFolders(new Map(config.types().map((type) => [type, config.getPaths(type)])));
    return ComfyUIPathResolver.fromFolderPaths(paths);
  }

  /** From the first installation that is found. @throws {BridgeError} `COMFYUI_NOT_FOUND`, naming every place. */
  static fromAutoDetect(options: DetectionOptions = {}): ComfyUIPathResolver {
    const found = detectComfyUIInstallation(options);
    if (found === undefined) throw notFound(options);
    const { root, baseDirectory, extraModelPathsConfigs } = found;
    return ComfyUIPathResolver.fromComfyUI(root, { baseDirectory, extraModelPathsConfigs });
  }

  types(): readonly string[] {
    return this.#source.names();
  }

  /** Folders of a type in search order. @throws {BridgeError} `FOLDER_UNKNOWN` */
  getPaths(type: string): readonly string[] {
    return this.#source.getPaths(type);
  }

  /** Every folder that holds models, also those that ComfyUI does not list: what a registry walks. */
  modelRoots(): readonly ModelRoot[] {
    return this.#source.modelRoots();
  }

  /** The path that ComfyUI would open, or undefined. */
  async resolve(type: string, name: string): Promise<string | undefined> {
    return this.#source.find(type, name);
  }

  /** All files of a type that can be opened. @throws {BridgeError} `FOLDER_UNKNOWN` */
  async scanModels(type: string): Promise<ModelFile[]> {
    const files: ModelFile[] = [];
    for (const name of await this.#source.list(type)) {
      const path = await this.#source.find(type, name);
      if (path === undefined) continue; // a link that leads nowhere is listed, but is no file
      const { size } = await stat(path);
      files.push({ name: name.replaceAll('\\', '/'), path: realpathSync(path), sizeBytes: size });
    }
    return files;
  }

  /** Files and bytes per type. A file that several names lead to counts once per type. */
  async getStats(): Promise<FolderStats[]> {
    const stats: FolderStats[] = [];
    for (const folder of this.types()) {
      const sizes = new Map((await this.scanModels(folder)).map(({ path, sizeBytes }) => [path, sizeBytes]));
      stats.push({ folder, files: sizes.size, sizeBytes: [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0) });
    }
    return stats;
  }
}

export function notFound(options: DetectionOptions = {}): BridgeError {
  const places = searchedPlaces(options);
  return new BridgeError(
    'COMFYUI_NOT_FOUND',
    `No ComfyUI was found. Name one with --comfyui FOLDER, or a folder with its models/ layout with --base-directory FOLDER. Looked in: ${places.join(', ')}.`,
    { details: { places } },
  );
}

function resolveLinks(folder: string): string {
  try {
    return realpathSync(folder);
  } catch {
    return resolve(folder); // a folder that appears later is a folder all the same
  }
}
