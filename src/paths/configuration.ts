/**
 * The steps by which ComfyUI arrives at its folder map when it starts.
 *
 * Base folder, then `extra_model_paths.yaml` beside main.py, then the files of the flag, then the folders below the
 * output folder. Reading files is handed in, so that the steps can be checked for a system that is not at hand.
 *
 * Source: ComfyUI 0.3.64, main.py `apply_custom_paths` and folder_paths.py; checked by test/golden/paths.
 */
import { messageOf } from '../common/errors.js';
import {
  readExtraModelPaths,
  type ExtraModelPaths,
  type NonStringType,
  type PathProblem,
} from './extra-model-paths.js';
import { addOutputFolders, createDefaultMap, type FolderMap } from './folder-map.js';
import { makeAbsolute, type PathPlatform } from './path-rules.js';
import { MAX_YAML_BYTES } from './yaml-reader.js';

/** Where everything starts: an installation, and the flags that ComfyUI has. */
export interface PathConfiguration {
  /** Folder of main.py, links resolved. */
  readonly installDirectory: string;
  readonly baseDirectory?: string | undefined;
  readonly extraModelPathsConfigs?: readonly string[] | undefined;
  readonly inputDirectory?: string | undefined;
  readonly outputDirectory?: string | undefined;
}

export interface ConfigurationReader {
  /** What is there, links followed; `silent` where that is not to be had in time. */
  kindOf(path: string): 'file' | 'folder' | 'silent' | undefined;
  /** @throws what the system says */
  read(path: string): Uint8Array;
}

export interface AssembledPaths {
  readonly map: FolderMap;
  readonly baseDirectory: string;
  readonly inputDirectory: string;
  readonly outputDirectory: string;
  /** All files that were read, or should have been; absolute. */
  readonly configFiles: readonly string[];
  /** These, and the one beside main.py that may appear. */
  readonly watchableConfigFiles: readonly string[];
  readonly nonStringTypes: readonly NonStringType[];
  /** Of all files at once, in the order in which ComfyUI would meet them. */
  readonly problems: readonly PathProblem[];
}

const CONFIG_NAME = 'extra_model_paths.yaml';
/** Read by some later ComfyUI in preference to CONFIG_NAME; not by any release that we know. */
const LATER_CONFIG_NAME = 'extra_paths.yaml';

export function assemblePaths(
  platform: PathPlatform,
  configuration: PathConfiguration,
  reader: ConfigurationReader,
): AssembledPaths {
  const { rules } = platform;
  const absolute = (path: string): string => makeAbsolute(platform, path);
  const baseDirectory = absolute(configuration.baseDirectory ?? configuration.installDirectory);
  const map = createDefaultMap(platform, baseDirectory);
  const problems: PathProblem[] = [];
  const nonStringTypes: NonStringType[] = [];

  const ownFile = rules.join(configuration.installDirectory, CONFIG_NAME);
  const laterFile = rules.join(configuration.installDirectory, LATER_CONFIG_NAME);
  if (reader.kindOf(laterFile) === 'file') {
    problems.push({
      severity: 'warning',
      file: laterFile,
      message: `${LATER_CONFIG_NAME} is not read yet; put its content into ${CONFIG_NAME}`,
    });
  }
  const configFiles = [
    ...(reader.kindOf(ownFile) === 'file' ? [ownFile] : []),
    ...(configuration.extraModelPathsConfigs ?? []).map(absolute),
  ];
  for (const file of configFiles) {
    const bytes = readConfig(reader, file, problems);
    if (bytes === undefined) continue;
    const extra = readExtraModelPaths(platform, file, bytes);
    problems.push(...extra.problems);
    nonStringTypes.push(...extra.nonStringTypes);
    warnAboutRepeats(extra, file, problems);
    warnAboutMissing(extra, file, reader, problems);
    for (const { name, path, isDefault, line, section } of extra.folders) {
      map.add(name, { path, origin: { kind: 'config', file, line, section } }, isDefault);
    }
  }

  const outputDirectory = absolute(configuration.outputDirectory ?? rules.join(baseDirectory, 'output'));
  addOutputFolders(map, platform, outputDirectory);
  const inputDirectory = absolute(configuration.inputDirectory ?? rules.join(baseDirectory, 'input'));
  const watchableConfigFiles = [...new Set([ownFile, ...configFiles])];
  return {
    map,
    baseDirectory,
    inputDirectory,
    outputDirectory,
    configFiles,
    watchableConfigFiles,
    nonStringTypes,
    problems,
  };
}

function readConfig(reader: ConfigurationReader, file: string, problems: PathProblem[]): Uint8Array | undefined {
  try {
    const bytes = reader.read(file);
    if (bytes.byteLength <= MAX_YAML_BYTES) return bytes;
    problems.push({
      severity: 'error',
      file,
      message: `the file has ${bytes.byteLength} bytes; is it a configuration? The limit is ${MAX_YAML_BYTES}`,
    });
  } catch (error) {
    problems.push({ severity: 'error', file, message: `the file cannot be read: ${messageOf(error)}` });
  }
  return undefined;
}

/** ComfyUI takes no notice of these until a model is missing. */
function warnAboutMissing(
  extra: ExtraModelPaths,
  file: string,
  reader: ConfigurationReader,
  problems: PathProblem[],
): void {
  for (const { name, path, line, section } of extra.folders) {
    const kind = reader.kindOf(path);
    if (kind === 'folder') continue;
    const consequence = name === 'custom_nodes' ? 'ComfyUI will not start without it' : 'nothing will be found in it';
    const message =
      kind === 'file'
        ? `${path} is a file, not a folder`
        : kind === 'silent'
          ? `the disk of ${path} does not answer; ${consequence} until it does`
          : `the folder ${path} does not exist; ${consequence}`;
    problems.push({ severity: 'warning', file, section, key: name, line, message });
  }
}

function warnAboutRepeats(extra: ExtraModelPaths, file: string, problems: PathProblem[]): void {
  const seen = new Map<string, number>();
  const defaults = new Map<string, string>();
  for (const { name, path, line, section, isDefault } of extra.folders) {
    const first = seen.get(`${name}\0${path}`);
    if (first !== undefined) {
      problems.push({
        severity: 'warning',
        file,
        section,
        key: name,
        line,
        message: `${path} is listed for ${name} already, in line ${first}`,
      });
    }
    seen.set(`${name}\0${path}`, line);
    if (!isDefault) continue;
    const other = defaults.get(name);
    if (other !== undefined && other !== section) {
      problems.push({
        severity: 'warning',
        file,
        section,
        key: name,
        line,
        message: `the sections ${other} and ${section} are both is_default; the later one comes first`,
      });
    }
    defaults.set(name, section);
  }
}
