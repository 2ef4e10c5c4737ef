/**
 * Composition root: builds the rooms, connects them, and disposes them in reverse order.
 */
import { existsSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { AdapterEngine, ReferenceEncoder } from './adapter/index.js';
import { cacheDirectory } from './common/environment.js';
import { BridgeError, messageOf } from './common/errors.js';
import { LogBook } from './common/log-book.js';
import type { Logger } from './common/logger.js';
import type { BridgeConfig } from './config.js';
import { FaceEngine } from './faces/index.js';
import { NodeCaller, PromptQueue, type NodeTable } from './graph/index.js';
import {
  adapterFolders,
  detectComfyUIInstallation,
  isComfyUIInstallation,
  modelRoots,
  notFound,
  UsageTracker,
  type ComfyUIInstallation,
  type UsageTables,
} from './library/index.js';
import { createNodes, type IPAdapterServices } from './nodes/index.js';
import { FolderPaths, type FileArea, type PathsChange } from './paths/index.js';
import {
  BackgroundHashing,
  INDEX_VERSION,
  ModelRegistry,
  type ModelRoot,
  type RegistryTables,
} from './registry/index.js';
import type { InferenceProcess } from './runtime/index.js';
import { openStore, PromptJournal, type Store } from './store/index.js';
import { askRunningComfyUI, type RunningComfyUI } from './upstream/index.js';
import { createVisionServices, type VisionServices, type VisionServicesOptions } from './vision-services.js';
import type { VisionEngine } from './vision/index.js';
import { REGISTRY_FILES_ENTRY, REGISTRY_SCAN_ENTRY } from './workers/index.js';

export interface Bridge extends AsyncDisposable {
  readonly config: BridgeConfig;
  readonly logger: Logger;
  /** The last lines of the log. */
  readonly logs: LogBook;
  /** The installation whose folders are read; undefined with --base-directory alone. */
  readonly installation: ComfyUIInstallation | undefined;
  readonly paths: FolderPaths;
  readonly directories: Readonly<Record<FileArea | 'data' | 'user', string>>;
  readonly inference: InferenceProcess;
  readonly vision: VisionEngine;
  readonly ipadapter: IPAdapterServices;
  readonly nodes: NodeTable;
  readonly queue: PromptQueue;
  /** Takes up what --persist-queue kept of the last run. Once, when no other server can be at it: the port is ours. */
  resume(): void;
  /** Single nodes, for hosts that have a graph of their own. */
  readonly nodeCalls: NodeCaller;
  /** All model files; its first scan begins when it is first asked for. */
  readonly registry: ModelRegistry;
  /** Which models are used; follows a running ComfyUI from `startBackground` on. */
  readonly usage: UsageTracker;
  /** Begins what a server does by itself: the first scan, counting uses, and hashing where the flags ask for it. */
  startBackground(): void;
}

/** Encodes that may wait for the inference process. */
const MAX_PENDING_ENCODES = 256;
const GIGABYTE = 1e9;

/**
 * Finds the user's folders and starts nothing yet: the inference process begins with the first encode.
 *
 * @throws {BridgeError} `COMFYUI_NOT_FOUND`; `PATHS_CONFIG_INVALID` with every error of every configuration file.
 */
export async function createBridge(config: BridgeConfig, outerLogger: Logger): Promise<Bridge> {
  const logs = new LogBook();
  const logger = logs.record(outerLogger);
  const { installation, paths } = await openFolders(config, logger);
  for (const { severity, ...problem } of paths.problems) logger.warn(problem, `model paths: ${severity}`);
  requireSoundPaths(paths);

  const data = dataDirectoryOf(config);
  // Free ports differ from run to run; the process id keeps two such servers apart.
  const ownTemp = join(data, `temp-${config.port === 0 ? `p${process.pid}` : config.port}`);
  const directories = {
    input: paths.inputDirectory,
    output: paths.outputDirectory,
    temp: config.tempDirectory === undefined ? ownTemp : resolve(config.tempDirectory),
    user: config.userDirectory === undefined ? join(data, 'user') : resolve(config.userDirectory),
    data,
  };
  await rm(ownTemp, { recursive: true, force: true });
  await mkdir(directories.temp, { recursive: true });

  const services = createVisionServices({ ...visionOptionsOf(config), dataDirectory: data, logger });
  const { engine: vision, inference } = services;
  const ipadapter = createIPAdapterServices(services, paths);
  const registry = createRegistry({ roots: () => modelRoots(paths), store: services.store, logger });
  const usage = createUsageTracker(services.store, {
    outputDirectory: paths.outputDirectory,
    comfyuiUrl: config.comfyuiUrl,
    logger,
  });
  await paths.watch((change) => {
    reportChange(change, logger);
    if (registry.progress.state !== 'idle') {
      registry.scan().catch((error: unknown) => {
        logger.warn({ reason: messageOf(error) }, 'the changed model folders were not scanned');
      });
    }
  });
  const nodes = createNodes({
    paths,
    directories,
    vision,
    ipadapter,
    registry,
    disableMetadata: config.disableMetadata,
  });
  const journal = config.persistQueue ? await PromptJournal.open(data, String(config.port), logger) : undefined;
  const queue = new PromptQueue({
    table: nodes,
    logger,
    dialect: config.dialect,
    maxPending: config.maxQueue,
    maxHistory: config.maxHistory,
    ...(journal === undefined ? {} : { journal }),
  });
  const nodeCalls = new NodeCaller(nodes);
  const hashing = new BackgroundHashing({
    contents: registry.contents,
    workers: registry.workers,
    files: () => registry.files(),
    isBusy: () =>
      queue.remaining > 0 ||
      inference.state.pendingCalls > 0 ||
      nodeCalls.running > 0 ||
      registry.progress.state !== 'done',
    logger,
  });
  return {
    config,
    logger,
    logs,
    installation,
    paths,
    directories,
    inference,
    vision,
    ipadapter,
    nodes,
    queue,
    resume() {
      const unfinished = journal?.takeUnfinished() ?? [];
      if (unfinished.length > 0) logger.info({ prompts: unfinished.length }, 'accepted prompts of the last run go on');
      queue.restore(unfinished);
    },
    nodeCalls,
    registry,
    usage,
    startBackground() {
      registry.start();
      usage.start();
      if (config.hashInBackground) hashing.start();
    },
    async [Symbol.asyncDispose]() {
      await queue[Symbol.asyncDispose]();
      await journal?.[Symbol.asyncDispose]();
      await usage[Symbol.asyncDispose]();
      const hashed = hashing[Symbol.asyncDispose]();
      await registry[Symbol.asyncDispose]();
      await hashed;
      await services[Symbol.asyncDispose]();
      await paths[Symbol.asyncDispose]();
      await rm(ownTemp, { recursive: true, force: true });
    },
  };
}

/** IP-Adapters over the user's folders; the command line and the library build them the same way. */
export function createIPAdapterServices(services: VisionServices, paths: FolderPaths): IPAdapterServices {
  const { engine: vision, inference } = services;
  const adapters = new AdapterEngine(inference, services);
  const faces = new FaceEngine(inference);
  const references = new ReferenceEncoder(adapters, vision, faces);
  return { adapters, faces, references, folders: adapterFolders(paths) };
}

interface RegistryParts {
  readonly roots: () => readonly ModelRoot[];
  readonly store: () => Promise<Store>;
  readonly logger: Logger;
}

/** The registry over some roots, kept in a store that somebody else closes. */
function createRegistry({ roots, store, logger }: RegistryParts): ModelRegistry {
  const openIndex: ConstructorParameters<typeof ModelRegistry>[0]['openIndex'] = async () =>
    (index ??= (await store()).modelIndex(INDEX_VERSION));
  let index: Awaited<ReturnType<typeof openIndex>> | undefined;
  let tables: RegistryTables | undefined;
  const openTables = async (): Promise<RegistryTables> => {
    const opened = await store();
    return (tables ??= { sidecars: opened.table('sidecars-1'), values: opened.table('model-values-1') });
  };
  return new ModelRegistry({
    roots,
    openIndex,
    openTables,
    threadEntry: REGISTRY_SCAN_ENTRY,
    fileThreadEntry: REGISTRY_FILES_ENTRY,
    logger,
  });
}

function createUsageTracker(store: () => Promise<Store>, options: TrackingOptions & { logger: Logger }): UsageTracker {
  let tables: UsageTables | undefined;
  const openTables = async (): Promise<UsageTables> => {
    const opened = await store();
    return (tables ??= { runs: opened.table('usage-runs-1'), pictures: opened.table('usage-pictures-1') });
  };
  return new UsageTracker({ ...options, openTables });
}

interface TrackingOptions {
  readonly outputDirectory: string;
  /** A running ComfyUI whose history is read. */
  readonly comfyuiUrl?: string | undefined;
}

export interface OwnedRegistry extends AsyncDisposable {
  readonly registry: ModelRegistry;
  /** Counts uses in the same store. It is disposed with the registry. */
  trackUsage(options: TrackingOptions): UsageTracker;
}

/** A registry with a store of its own, for commands and programs; nothing is scanned yet. */
export function openRegistry(options: {
  readonly roots: () => readonly ModelRoot[];
  readonly dataDirectory: string;
  readonly logger: Logger;
}): OwnedRegistry {
  const { roots, dataDirectory, logger } = options;
  let opened: Promise<Store> | undefined;
  // Features are the engine's: this store adds none, so its bound does not matter.
  const store = (): Promise<Store> =>
    (opened ??= openStore({ directory: dataDirectory, maxFeatureBytes: Infinity, logger }));
  const registry = createRegistry({ roots, store, logger });
  const trackers: UsageTracker[] = [];
  return {
    registry,
    trackUsage(tracking) {
      const tracker = createUsageTracker(store, { ...tracking, logger });
      trackers.push(tracker);
      return tracker;
    },
    async [Symbol.asyncDispose]() {
      for (const tracker of trackers) await tracker[Symbol.asyncDispose]();
      await registry[Symbol.asyncDispose]();
      await (await opened)?.[Symbol.asyncDispose]();
    },
  };
}

/** Where Vision Bridge keeps what is its own. */
export function dataDirectoryOf({ dataDirectory }: { readonly dataDirectory?: string | undefined }): string {
  return resolve(dataDirectory ?? join(cacheDirectory(), 'vision-bridge'));
}

/** What the engine's flags say, for all who compose it. */
export function visionOptionsOf(config: BridgeConfig): Omit<VisionServicesOptions, 'dataDirectory' | 'logger'> {
  return {
    maxFeatureBytes: config.featureStore ? config.featureStoreSize * GIGABYTE : 0,
    idleReleaseMs: config.idleRelease * 1000,
    maxPendingCalls: MAX_PENDING_ENCODES,
    device: config.device,
    ...(config.memoryBudget === undefined ? {} : { memoryBudgetBytes: config.memoryBudget * GIGABYTE }),
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

/** @throws {BridgeError} `PATHS_CONFIG_INVALID` with every error of every configuration file */
function requireSoundPaths({ problems }: FolderPaths): void {
  const errors = problems.filter(({ severity }) => severity === 'error');
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
}

/** The folders that a configuration names, or that are found where it names none. */
export async function openFolders(config: BridgeConfig, logger: Logger): Promise<OpenFolders> {
  const running = config.comfyuiUrl === undefined ? undefined : await askRunningComfyUI(config.comfyuiUrl);
  const installation = findInstallation(config);
  const baseDirectory = config.baseDirectory ?? running?.flags.baseDirectory ?? installation?.baseDirectory;
  if (installation === undefined && baseDirectory === undefined) throw notFound();
  if (config.baseDirectory !== undefined && !existsSync(config.baseDirectory)) {
    throw new BridgeError(
      'COMFYUI_NOT_FOUND',
      `The folder ${resolve(config.baseDirectory)}, which --base-directory names, does not exist.`,
      { details: { path: config.baseDirectory } },
    );
  }
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

/**
 * The user's folders, for those who can do nothing with half of them.
 *
 * @throws what `openFolders` and `requireSoundPaths` throw
 */
export async function openSoundFolders(config: BridgeConfig, logger: Logger): Promise<OpenFolders> {
  const opened = await openFolders(config, logger);
  requireSoundPaths(opened.paths);
  return opened;
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
