/**
 * The user's model folders: which there are, what is in them, where a name leads. Reads, never writes.
 *
 * Listings are cached as ComfyUI caches them: by the modification times of all folders seen.
 */
import { readFileSync } from 'node:fs';
import { BridgeError, ModelNotFoundError } from '../common/errors.js';
import { nearNames } from '../common/problems.js';
import { SingleFlight } from '../common/single-flight.js';
import { silentLogger, type Logger } from '../common/logger.js';
import {
  assemblePaths,
  type AssembledPaths,
  type ConfigurationReader,
  type PathConfiguration,
} from './configuration.js';
import { closestFolderName, type NonStringType, type PathProblem } from './extra-model-paths.js';
import { createOwnMap, type FolderMap, type FolderType, type ModelFolder } from './folder-map.js';
import { FolderWatcher } from './folder-watcher.js';
import { isCurrent, listFiles, type Listing } from './listing.js';
import { findModel } from './lookup.js';
import { lookAt } from './network-folders.js';
import type { PathPlatform } from './path-rules.js';
import { currentPlatform } from './platform.js';

export interface FolderPathsOptions extends PathConfiguration {
  readonly logger?: Logger;
  readonly platform?: PathPlatform;
}

/** Names offered in a message about one that was not found. */
const MAX_SUGGESTIONS = 5;

const disk: ConfigurationReader = {
  kindOf: lookAt,
  read: (path) => readFileSync(path),
};

/** What changed, as `watch` tells it. */
export interface PathsChange {
  /** Folder types whose files are others now. */
  readonly folders: readonly string[];
  /** The configuration was read again, with these problems; with an error among them the last good one stays in force. */
  readonly problems?: readonly PathProblem[];
}

type Assemble = typeof assemblePaths;

export class FolderPaths implements AsyncDisposable {
  readonly #assemble: () => AssembledPaths;
  readonly #platform: PathPlatform;
  readonly #logger: Logger;
  readonly #listings = new Map<string, Listing>();
  readonly #flights = new SingleFlight<string, Listing>();
  /** Listed types whose folders changed since. */
  readonly #dirty = new Set<string>();
  /** Names of every listed type as of the last change event. */
  readonly #announced = new Map<string, readonly string[]>();
  #assembled: AssembledPaths;
  #watcher: FolderWatcher | undefined;

  constructor(options: FolderPathsOptions, assemble: Assemble = assemblePaths) {
    this.#platform = options.platform ?? currentPlatform();
    this.#logger = options.logger ?? silentLogger;
    this.#assemble = () => assemble(this.#platform, options, disk);
    this.#assembled = this.#assemble();
  }

  /** Folders that a program names itself; types that ComfyUI knows keep its endings. */
  static ofFolders(folders: ReadonlyMap<string, readonly string[]>): FolderPaths {
    return new FolderPaths({ installDirectory: '' }, () => ({
      map: createOwnMap(folders, { kind: 'library' }),
      baseDirectory: '',
      inputDirectory: '',
      outputDirectory: '',
      configFiles: [],
      watchableConfigFiles: [],
      nonStringTypes: [],
      problems: [],
    }));
  }

  /**
   * The folder map of a running ComfyUI in place of what the files say, whose differences are reported as warnings. The
   * files stay watched, but only a restart of ComfyUI takes them up.
   */
  static ofRunning(
    url: string,
    folders: ReadonlyMap<string, readonly string[]>,
    options: FolderPathsOptions,
  ): FolderPaths {
    return new FolderPaths(options, (platform, configuration, reader) => {
      const fromFiles = assemblePaths(platform, configuration, reader);
      const map = createOwnMap(folders, { kind: 'running', url });
      return { ...fromFiles, map, problems: [...fromFiles.problems, ...differences(url, map, fromFiles.map)] };
    });
  }

  get baseDirectory(): string {
    return this.#assembled.baseDirectory;
  }

  get inputDirectory(): string {
    return this.#assembled.inputDirectory;
  }

  get outputDirectory(): string {
    return this.#assembled.outputDirectory;
  }

  get configFiles(): readonly string[] {
    return this.#assembled.configFiles;
  }

  /** Everything that is wrong or surely not meant, in all files at once. */
  get problems(): readonly PathProblem[] {
    return this.#assembled.problems;
  }

  get nonStringTypes(): readonly NonStringType[] {
    return this.#assembled.nonStringTypes;
  }

  /** Folder names in ComfyUI's order. */
  names(): string[] {
    return this.#assembled.map.names();
  }

  /** Folders of a type in search order; old names are mapped. @throws {BridgeError} `FOLDER_UNKNOWN` */
  folders(name: string): readonly ModelFolder[] {
    return this.#type(name).folders;
  }

  /** Lower-case endings of a type; empty accepts every file. @throws {BridgeError} `FOLDER_UNKNOWN` */
  extensions(name: string): ReadonlySet<string> {
    return this.#type(name).extensions;
  }

  /** Whether there is a type of exactly this name: the HTTP routes know no old names. */
  has(name: string): boolean {
    return this.#assembled.map.getExact(name) !== undefined;
  }

  /** Model names of a type, `/` or the system's separator inside, in code-point order. @throws {BridgeError} `FOLDER_UNKNOWN` */
  async list(name: string): Promise<readonly string[]> {
    const type = this.#type(name);
    const listing = await this.#flights.run(name, async () => {
      const known = this.#listings.get(name);
      if (known !== undefined && this.#isCurrent(name, known, type)) return known;
      this.#dirty.delete(name);
      const fresh = await listFiles(type);
      for (const warning of fresh.warnings) this.#logger.warn({ folder: name }, warning);
      this.#listings.set(name, fresh);
      if (!this.#announced.has(name)) this.#announced.set(name, fresh.names);
      await this.#trackAll();
      // What changed between the listing and the watch is seen by nobody else.
      if (this.#watcher !== undefined && !isCurrent(fresh, type)) this.#dirty.add(name);
      return fresh;
    });
    return listing.names;
  }

  /** The path that ComfyUI would open; undefined when no folder has the file, or there is no such type. */
  async find(name: string, modelName: string): Promise<string | undefined> {
    const type = this.#assembled.map.get(name);
    if (type === undefined) return undefined;
    return findModel(this.#platform, type, modelName, (message) => {
      this.#logger.warn({ folder: name }, message);
    });
  }

  /**
   * As `find`, but loud.
   *
   * @throws {ModelNotFoundError} naming what was looked for, where, and names that come near.
   * @throws {BridgeError} `FOLDER_UNKNOWN`
   */
  async resolve(name: string, modelName: string): Promise<string> {
    const { folders } = this.#type(name);
    const path = await this.find(name, modelName);
    if (path !== undefined) return path;
    const similar = similarNames(modelName, await this.list(name));
    const searched = folders.map((folder) => folder.path);
    const hint = similar.length > 0 ? ` Did you mean ${similar.join(' or ')}?` : '';
    throw new ModelNotFoundError(
      `No ${name} model is called "${modelName}". Looked in ${searched.join(', ')}.${hint}`,
      {
        details: { folder: name, name: modelName, searched, similar },
      },
    );
  }

  #type(name: string): FolderType {
    const type = this.#assembled.map.get(name);
    if (type !== undefined) return type;
    const meant = closestFolderName(name);
    throw new BridgeError(
      'FOLDER_UNKNOWN',
      `There is no model folder type "${name}".${meant === undefined ? ` Known: ${this.names().join(', ')}.` : ` Did you mean ${meant}?`}`,
      {
        details: { folder: name },
      },
    );
  }

  /**
   * Begins to watch configuration files and every folder that was listed: `list` answers from memory from now on, and
   * `onChange` is called once per burst of changes, within a second on a local disk.
   */
  async watch(onChange: (change: PathsChange) => void): Promise<void> {
    this.#watcher ??= new FolderWatcher({
      // Whoever asks before the burst is over gets a fresh listing.
      onNotice: (path) => {
        for (const name of this.#listingsOf(new Set([path]))) this.#dirty.add(name);
      },
      onChange: (paths) => {
        void this.#changed(paths, onChange);
      },
    });
    await this.#trackAll();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watcher?.[Symbol.asyncDispose]();
    this.#watcher = undefined;
  }

  /** Reads all configuration files again; on an error the last good configuration stays in force. */
  reload(): readonly PathProblem[] {
    const next = this.#assemble();
    if (next.problems.some(({ severity }) => severity === 'error')) return next.problems;
    this.#assembled = next;
    this.#listings.clear();
    return next.problems;
  }

  #isCurrent(name: string, listing: Listing, type: FolderType): boolean {
    return this.#watcher === undefined ? isCurrent(listing, type) : !this.#dirty.has(name);
  }

  async #trackAll(): Promise<void> {
    const { watchableConfigFiles, map } = this.#assembled;
    const folders = [...this.#listings].flatMap(([name, listing]) => [
      ...listing.folderTimes.keys(),
      // A root that is not there yet may appear.
      ...(map.get(name)?.folders ?? []).map(({ path }) => path),
    ]);
    await this.#watcher?.track(new Set([...watchableConfigFiles, ...folders]));
  }

  /** Types of which a path is a listed folder, or a root that was not there. */
  #listingsOf(paths: ReadonlySet<string>): string[] {
    return [...this.#listings]
      .filter(([name, { folderTimes }]) => {
        const roots = this.#assembled.map.get(name)?.folders ?? [];
        return [...paths].some((path) => folderTimes.has(path) || roots.some((root) => root.path === path));
      })
      .map(([name]) => name);
  }

  async #changed(paths: ReadonlySet<string>, onChange: (change: PathsChange) => void): Promise<void> {
    const isReload = this.#assembled.watchableConfigFiles.some((file) => paths.has(file));
    const touched = isReload ? [...this.#announced.keys()] : this.#listingsOf(paths);
    const problems = isReload ? this.reload() : undefined;
    const folders: string[] = [];
    for (const name of touched) {
      const before = this.#announced.get(name);
      const after = this.#assembled.map.get(name) === undefined ? [] : await this.list(name);
      this.#announced.set(name, after);
      if (before !== undefined && after.join('\0') !== before.join('\0')) folders.push(name);
    }
    if (isReload) await this.#trackAll();
    if (folders.length > 0 || problems !== undefined) {
      onChange({ folders, ...(problems === undefined ? {} : { problems }) });
    }
  }
}

/** Where a running ComfyUI and its files disagree: changed since it started, or by a custom node. */
function differences(url: string, running: FolderMap, files: FolderMap): PathProblem[] {
  const pathsOf = (map: FolderMap, name: string): string[] => map.getExact(name)?.folders.map(({ path }) => path) ?? [];
  return [...new Set([...running.names(), ...files.names()])].flatMap((name): PathProblem[] => {
    const [here, there] = [pathsOf(running, name), pathsOf(files, name)];
    if (here.join('\0') === there.join('\0')) return [];
    const extra = here.filter((path) => !there.includes(path));
    const missing = there.filter((path) => !here.includes(path));
    const parts = [
      ...(extra.length > 0 ? [`has ${extra.join(', ')}, which the files do not name`] : []),
      ...(missing.length > 0 ? [`lacks ${missing.join(', ')}, which the files name`] : []),
      ...(extra.length + missing.length === 0 ? ['has the same folders in another order'] : []),
    ];
    return [
      {
        severity: 'warning',
        file: url,
        key: name,
        message: `${name}: the running ComfyUI ${parts.join(' and ')}; its own map is used`,
      },
    ];
  });
}

/** Names of the same file in another folder, in another case, or that contain the text. */
function similarNames(wanted: string, names: readonly string[]): string[] {
  const base = (name: string): string =>
    name.slice(Math.max(name.lastIndexOf('/'), name.lastIndexOf('\\')) + 1).toLowerCase();
  const stem = (name: string): string => base(name).replace(/\.[^.]*$/, '');
  const same = names.filter((name) => stem(name) === stem(wanted));
  if (same.length > 0 || stem(wanted) === '') return same.slice(0, MAX_SUGGESTIONS);
  const parts = names.filter((name) => stem(name).includes(stem(wanted)) || stem(wanted).includes(stem(name)));
  if (parts.length > 0) return parts.slice(0, MAX_SUGGESTIONS);
  const near = new Set(nearNames(stem(wanted), names.map(stem), MAX_SUGGESTIONS));
  return names.filter((name) => near.has(stem(name))).slice(0, MAX_SUGGESTIONS);
}
