/**
 * Composition root: builds the rooms, connects them, and disposes them in reverse order.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { cacheDirectory } from './common/environment.js';
import { BridgeError } from './common/errors.js';
import type { Logger } from './common/logger.js';
import type { BridgeConfig } from './config.js';
import { NodeCaller, PromptQueue, type NodeTable } from './graph/index.js';
import {
  detectComfyUIInstallation,
  isComfyUIInstallation,
  notFound,
  type ComfyUIInstallation,
} from './library/index.js';
import { createNodes } from './nodes/index.js';
import { FolderPaths, type FileArea, type PathsChange } from './paths/index.js';
import { InferenceProcess } from './runtime/index.js';
import { askRunningComfyUI, type RunningComfyUI } from './upstream/index.js';
import { VisionEngine } from './vision/index.js';
import { INFERENCE_PROCESS_ENTRY } from './workers/index.js';

export interface Bridge extends AsyncDisposable {
  readonly config: BridgeConfig;
  readonly logger: Logger;
  /** The installation whose folders are read; undefined with --base-directory alone. */
  readonly installation: ComfyUIInstallation | undefined;
  readonly paths: FolderPaths;
  readonly directories: Readonly<Record<FileArea | 'data', string>>;
  readonly inference: InferenceProcess;
  readonly vision: VisionEngine;
  readonly nodes: NodeTable;
  readonly queue: PromptQueue;
  /** Single nodes, for hosts that have a graph of their own. */
  readonly nodeCalls: NodeCaller;
}

/** Encodes that may wait for the inference process. */
const MAX_PENDING_ENCODES = 256;

/**
 * Finds the user's folders and starts nothing yet: the inference process begins with the first encode.
 *
 * @throws {BridgeError} `COMFYUI_NOT_FOUND`; `PATHS_CONFIG_INVALID` with every error of every configuration file.
 */
export async function createBridge(config: BridgeConfig, logger: Logger): Promise<Bridge> {
  const { installation, paths } = await openFolders(config, logger);
  for (const { severity, ...problem } of paths.problems) logger.warn(problem, `model paths: ${severity}`);
  const errors = paths.problems.filter(({ severity }) => severity === 'error');
  if (errors.length > 0) {
    const lines = errors.map(
      ({ file, line, column, message }) => `${file}${line === undefined ? '' : `:${line}:${column ?? 1}`}: ${message}`,
    );
    throw new BridgeError(
      'PATHS_CONFIG_INVALID',
      `The configuration of model paths holds errors:\n${lines.join('\n')}`,
      { details: { problems: errors } },
    );
  }

  const data = resolve(config.dataDirectory ?? join(cacheDirectory(), 'vision-bridge'));
  // Free ports differ from run to run; the process id keeps two such servers apart.
  const ownTemp = join(data, `temp-${config.port === 0 ? `p${process.pid}` : config.port}`);
  const directories = {
    input: paths.inputDirectory,
    output: paths.outputDirectory,
    temp: config.tempDirectory === undefined ? ownTemp : resolve(config.tempDirectory),
    data,
  };
  await rm(ownTemp, { recursive: true, force: true });
  await mkdir(directories.temp, { recursive: true });

  const inference = new InferenceProcess({
    entry: INFERENCE_PROCESS_ENTRY,
    idleReleaseMs: config.idleRelease * 1000,
    maxPendingCalls: MAX_PENDING_ENCODES,
    logger,
  });
  const vision = new VisionEngine(inference);
  await paths.watch((change) => {
    reportChange(change, logger);
  });
  const nodes = createNodes({ paths, directories, vision, disableMetadata: config.disableMetadata });
  const queue = new PromptQueue({ table: nodes, logger });
  return {
    config,
    logger,
    installation,
    paths,
    directories,
    inference,
    vision,
    nodes,
    queue,
    nodeCalls: new NodeCaller(nodes),
    async [Symbol.asyncDispose]() {
      await queue[Symbol.asyncDispose]();
      await inference[Symbol.asyncDispose]();
      await paths[Symbol.asyncDispose]();
      await rm(ownTemp, { recursive: true, force: true });
    },
  };
}

/** A configuration that became bad leaves the last good one in force. */
function reportChange({ folders, problems = [] }: PathsChange, logger: Logger): void {
  for (const { severity, ...problem } of problems) {
    if (severity === 'error') logger.error(problem, 'model paths: the changed configuration is not used');
    else logger.warn(problem, 'model paths: warning');
  }
  if (folders.length > 0) logger.info({ folders }, 'model folders changed');
}

export interface OpenFolders {
  readonly installation: ComfyUIInstallation | undefined;
  readonly running: RunningComfyUI | undefined;
  readonly paths: FolderPaths;
}

/** The folders that a configuration names, or that are found where it names none. */
export async function openFolders(config: BridgeConfig, logger: Logger): Promise<OpenFolders> {
  const running = config.comfyuiUrl === undefined ? undefined : await askRunningComfyUI(config.comfyuiUrl);
  const installation = findInstallation(config);
  const baseDirectory = config.baseDirectory ?? running?.flags.baseDirectory ?? installation?.baseDirectory;
  if (installation === undefined && baseDirectory === undefined) throw notFound();
  const options = {
    installDirectory: installation?.root ?? resolve(baseDirectory ?? ''),
    baseDirectory,
    extraModelPathsConfigs: [...(installation?.extraModelPathsConfigs ?? []), ...config.extraModelPathsConfig],
    inputDirectory: config.inputDirectory ?? running?.flags.inputDirectory,
    outputDirectory: config.outputDirectory ?? running?.flags.outputDirectory,
    logger,
  };
  const paths =
    running === undefined ? new FolderPaths(options) : FolderPaths.ofRunning(running.url, running.folders, options);
  return { installation, running, paths };
}

function findInstallation({ comfyui, baseDirectory }: BridgeConfig): ComfyUIInstallation | undefined {
  if (comfyui !== undefined) {
    const found = detectComfyUIInstallation({ searchPaths: [comfyui] });
    if (found === undefined) {
      throw new BridgeError(
        'COMFYUI_NOT_FOUND',
        `${resolve(comfyui)} is no ComfyUI installation: main.py, folder_paths.py and comfy/ are expected in it.`,
        {
          details: { comfyui },
        },
      );
    }
    return { ...found, foundBy: '--comfyui' };
  }
  // --base-directory alone puts everything below it; detection would only add folders that nobody asked for.
  if (baseDirectory !== undefined)
    return isComfyUIInstallation(baseDirectory)
      ? detectComfyUIInstallation({ searchPaths: [baseDirectory] })
      : undefined;
  return detectComfyUIInstallation();
}
