/**
 * The user's model folders: which there are, what is in them, where a name leads. Reads, never writes.
 *
 * Listings are cached as ComfyUI caches them: by the modification times of all folders seen.
 */
import { readFileSync, statSync } from 'node:fs';
import { BridgeError, ModelNotFoundError } from '../common/errors.js';
import { SingleFlight } from '../common/single-flight.js';
import { silentLogger, type Logger } from '../common/logger.js';
import {
  assemblePaths,
  type AssembledPaths,
  type ConfigurationReader,
  type PathConfiguration,
} from './configuration.js';
import { closestFolderName, type NonStringType, type PathProblem } from './extra-model-paths.js';
import { createOwnMap, type FolderType, type ModelFolder } from './folder-map.js';
import { isCurrent, listFiles, type Listing } from './listing.js';
import { findModel } from './lookup.js';
import type { PathPlatform } from './path-rules.js';
import { currentPlatform } from './platform.js';

export interface FolderPathsOptions extends PathConfiguration {
  readonly logger?: Logger;
  readonly platform?: PathPlatform;
}

/** Names offered in a message about one that was not found. */
const MAX_SUGGESTIONS = 5;

const disk: ConfigurationReader = {
  isFile: (path) => statSync(path, { throwIfNoEntry: false })?.isFile() === true,
  read: (path) => readFileSync(path),
};

type Assemble = typeof assemblePaths;

export class FolderPaths {
  readonly #assemble: () => AssembledPaths;
  readonly #platform: PathPlatform;
  readonly #logger: Logger;
  readonly #listings = new Map<string, Listing>();
  readonly #flights = new SingleFlight<string, Listing>();
  #assembled: AssembledPaths;

  constructor(options: FolderPathsOptions, assemble: Assemble = assemblePaths) {
    this.#platform = options.platform ?? currentPlatform();
    this.#logger = options.logger ?? silentLogger;
    this.#assemble = () => assemble(this.#platform, options, disk);
    this.#assembled = this.#assemble();
  }

  /** Folders that a program names itself; types that ComfyUI knows keep its endings. */
  static ofFolders(folders: ReadonlyMap<string, readonly string[]>): FolderPaths {
    return new FolderPaths({ installDirectory: '' }, () => ({
      map: createOwnMap(folders),
      baseDirectory: '',
      inputDirectory: '',
      outputDirectory: '',
      configFiles: [],
      nonStringTypes: [],
      problems: [],
    }));
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
      if (known !== undefined && (await isCurrent(known, type))) return known;
      const fresh = await listFiles(type);
      for (const warning of fresh.warnings) this.#logger.warn({ folder: name }, warning);
      this.#listings.set(name, fresh);
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

  /** Reads all configuration files again; on an error the last good configuration stays in force. */
  reload(): readonly PathProblem[] {
    const next = this.#assemble();
    if (next.problems.some(({ severity }) => severity === 'error')) return next.problems;
    this.#assembled = next;
    this.#listings.clear();
    return next.problems;
  }
}

/** Names of the same file in another folder, in another case, or that contain the text. */
function similarNames(wanted: string, names: readonly string[]): string[] {
  const base = (name: string): string =>
    name.slice(Math.max(name.lastIndexOf('/'), name.lastIndexOf('\\')) + 1).toLowerCase();
  const stem = (name: string): string => base(name).replace(/\.[^.]*$/, '');
  const same = names.filter((name) => stem(name) === stem(wanted));
  if (same.length > 0 || stem(wanted) === '') return same.slice(0, MAX_SUGGESTIONS);
  return names
    .filter((name) => stem(name).includes(stem(wanted)) || stem(wanted).includes(stem(name)))
    .slice(0, MAX_SUGGESTIONS);
}
