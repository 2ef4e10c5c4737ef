/**
 * The index of all model files: scanned in threads, kept in the store, asked from memory.
 *
 * A scan walks every root and reads the headers of files that the store does not know yet. Meanwhile queries answer with
 * what is there, and say so. Nothing starts by itself: bridge.ts or a command starts the scan.
 */
import { availableParallelism } from 'node:os';
import { extname } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { BridgeError, messageOf } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import { STAT_GROUPINGS } from '../protocol/registry.js';
import type { IndexedModel, ModelIndexStore, Table } from '../store/index.js';
import { BesideModels, type ModelBeside } from './beside.js';
import type { ModelHashes } from './hashes.js';
import { queryModels, type ModelQuery, type QueryResult } from './query.js';
import type { ModelReading } from './read-model.js';
import { rowKey, type ModelRow } from './row.js';
import type { ReadModel } from './scan/thread.js';
import { ScanThreads } from './scan/threads.js';
import { NUMBERS_PER_FILE, type WalkedFiles } from './scan/walk.js';
import type { ShardSet } from './shards.js';
import type { ShardIndex, SidecarClaims } from './sidecars.js';
import { computeStats, type Grouping, type ModelStats } from './stats.js';
import type { ValueCheck } from './values.js';
import { ModelContents } from './whole-files/contents.js';
import { FileWorkers, type FileWorkOptions } from './whole-files/workers.js';

/** A folder to walk, and what its files are called. */
export interface ModelRoot {
  readonly path: string;
  /** ComfyUI's folder name, or that of a folder of `models/` that ComfyUI does not know. */
  readonly folder: string;
  /** Place among the roots of this folder name: earlier ones hide files of later ones. */
  readonly rootIndex: number;
  /** Endings that ComfyUI lists here; empty lists all, absent none. */
  readonly extensions?: ReadonlySet<string>;
  /** Roots of their own inside this one that are not walked with it. */
  readonly excluded?: readonly string[];
}

export interface ModelEntry {
  /** Where it was found; links are not resolved. */
  readonly path: string;
  readonly folder: string;
  /** Relative to its root, with `/`. */
  readonly name: string;
  readonly root: string;
  readonly rootIndex: number;
  readonly listedByComfyUI: boolean;
  readonly sizeBytes: number;
  /** Less than the size for sparse files and placeholders of cloud folders. */
  readonly sizeOnDisk: number;
  readonly modifiedMs: number;
  readonly hardLinks: number;
  /** Device and inode: equal for all names of one file. */
  readonly file: string;
  /** Identity of this state of the file. */
  readonly key: string;
  /** Path of a file of the same name in an earlier root, which ComfyUI opens instead. */
  readonly shadowedBy?: string;
  /** Absent while the scan has not come to it. */
  readonly row?: ModelRow | undefined;
  /** What files beside it claim. */
  readonly beside?: ModelBeside;
  /** For a model in several files, whose first part this entry names. */
  readonly shards?: ShardSet;
}

export interface ScanProgress {
  readonly state: 'idle' | 'walking' | 'reading' | 'done';
  readonly files: number;
  /** Files whose facts are known. */
  readonly known: number;
  readonly readBytes: number;
}

export interface RootState {
  readonly path: string;
  readonly status: 'ok' | 'missing' | 'unavailable';
  readonly files: number;
  readonly problems: readonly string[];
}

export interface ScanSummary {
  readonly files: number;
  /** Headers that were read because the store did not know them. */
  readonly read: number;
  readonly durationMs: number;
  readonly roots: readonly RootState[];
}

export interface ModelRegistryOptions {
  readonly roots: () => readonly ModelRoot[];
  readonly openIndex: () => Promise<ModelIndexStore<ModelRow, ModelHashes>>;
  readonly openTables: () => Promise<RegistryTables>;
  /** The entry of scan threads, a file of workers/. */
  readonly threadEntry: URL;
  /** The entry of threads that read files whole, a file of workers/. */
  readonly fileThreadEntry: URL;
  readonly logger: Logger;
  readonly threads?: number;
}

export interface RegistryTables {
  readonly sidecars: Table<SidecarClaims | null>;
  readonly values: Table<ValueCheck>;
}

interface WalkedRoot extends RootState {
  readonly entries: ModelEntry[];
}

/** Small enough that threads finish together, large enough that messages are few. */
const FILES_PER_BATCH = 48;
/** The store is asked for so many rows before others get their turn. */
const LOOKUPS_PER_TURN = 2000;
/** Batches on their way to the store at once. */
const MAX_WRITES = 8;
const MAX_THREADS = 4;
/** Threads take longer to start than folders without news take to scan; nodes scan before they answer. */
const THREADS_IDLE_MS = 10_000;
const SILENCE_MS = 30_000;

type Listener = (progress: ScanProgress) => void;

export class ModelRegistry implements AsyncDisposable {
  /** What reading whole files tells. */
  readonly contents: ModelContents;
  /** The threads that do so. */
  readonly workers: FileWorkers;
  readonly #options: ModelRegistryOptions;
  readonly #beside: BesideModels;
  #lookingBeside: { readonly done: Promise<void>; readonly stop: AbortController } | undefined;
  readonly #listeners = new Set<Listener>();
  readonly #roots = new Map<string, WalkedRoot>();
  #progress: ScanProgress = { state: 'idle', files: 0, known: 0, readBytes: 0 };
  #scanning: Promise<ScanSummary> | undefined;
  #threads: ScanThreads | undefined;
  #threadsTimer: NodeJS.Timeout | undefined;
  #entries: readonly ModelEntry[] | undefined;
  #revision = 0;
  readonly #stats = new Map<Grouping, ModelStats>();
  #statsRevision = -1;
  #isDisposed = false;

  constructor(options: ModelRegistryOptions) {
    this.#options = options;
    const { openIndex, openTables } = options;
    this.workers = new FileWorkers(options.fileThreadEntry);
    const openValues = async (): Promise<Table<ValueCheck>> => (await openTables()).values;
    const openSidecars = async (): Promise<Table<SidecarClaims | null>> => (await openTables()).sidecars;
    this.contents = new ModelContents({ workers: this.workers, openIndex, openValues });
    this.#beside = new BesideModels({ workers: this.workers, openIndex, openSidecars });
  }

  get progress(): ScanProgress {
    return this.#progress;
  }

  /** Changes whenever an answer may have changed. */
  get revision(): number {
    return this.#revision;
  }

  get rootStates(): readonly RootState[] {
    return [...this.#roots.values()].map(({ path, status, files, problems }) => ({ path, status, files, problems }));
  }

  /** Tells of progress, at most a few times per second, and of the end of each scan. */
  subscribe(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** All models that are known now, in order of folder names and roots. Parts of a model are one entry. */
  entries(): readonly ModelEntry[] {
    this.#entries ??= withShadows(this.#beside.gather([...this.#roots.values()].flatMap(({ entries }) => entries)));
    return this.#entries;
  }

  /** All files, every part for itself. */
  files(): readonly ModelEntry[] {
    return this.entries().flatMap((entry) => entry.shards?.parts ?? entry);
  }

  /** Tables of models in several files. */
  get shardIndexes(): readonly ShardIndex[] {
    return this.#beside.indexes;
  }

  /** Files that fit, in the order and number that the query asks for. */
  query(query: ModelQuery): QueryResult {
    return queryModels(this.entries(), query);
  }

  /** Files below one of ComfyUI's folder names. */
  getAll(folder: string): readonly ModelEntry[] {
    return this.query({ folder, sort: 'name' }).models;
  }

  /** Files that are LoRAs by content, wherever they lie. */
  getAllLoras(): readonly ModelEntry[] {
    return this.query({ kind: 'lora', sort: 'name' }).models;
  }

  getAllCheckpoints(): readonly ModelEntry[] {
    return this.query({ kind: 'checkpoint', sort: 'name' }).models;
  }

  /** Sums over all files, grouped; computed once per change of the index. */
  stats(by: Grouping = 'folder'): ModelStats {
    if (this.#statsRevision !== this.#revision) {
      this.#stats.clear();
      this.#statsRevision = this.#revision;
    }
    const stats = this.#stats.get(by) ?? computeStats(this.entries(), by);
    this.#stats.set(by, stats);
    return stats;
  }

  /** Begins the first scan, if none has begun; nobody waits for it, and a failure is logged. */
  start(): void {
    if (this.#progress.state !== 'idle') return;
    this.scan().catch((error: unknown) => {
      if (!this.#isDisposed)
        this.#options.logger.error({ reason: messageOf(error) }, 'the scan of model folders failed');
    });
  }

  /** Walks all roots and reads what is new. A scan under way is shared; callers that come later get the next one. */
  async scan(): Promise<ScanSummary> {
    const running = this.#scanning;
    if (running !== undefined) await running.catch(() => undefined);
    if (this.#scanning === undefined || this.#scanning === running) {
      const scan = this.#scan().finally(() => {
        if (this.#scanning === scan) this.#scanning = undefined;
      });
      this.#scanning = scan;
    }
    return this.#scanning;
  }

  /** Scans, and looks at what lies beside the files. */
  async refresh(): Promise<ScanSummary> {
    const summary = await this.scan();
    await this.#lookingBeside?.done;
    return summary;
  }

  /** Everything that is kept of a file; undefined while the scan has not come to it. */
  async details({ key }: ModelEntry): Promise<ModelReading | undefined> {
    const text = (await this.#options.openIndex()).details(key);
    return text === undefined ? undefined : (JSON.parse(text) as ModelReading);
  }

  /** Hashes that were made earlier. */
  async knownHashes(entry: ModelEntry): Promise<ModelHashes | undefined> {
    return this.contents.knownHashes(entry);
  }

  /** Hashes of a file: kept ones, or made now by reading it whole. */
  async hash(entry: ModelEntry, options: FileWorkOptions = {}): Promise<ModelHashes> {
    return this.contents.hash(entry, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isDisposed = true;
    this.#lookingBeside?.stop.abort();
    await this.workers[Symbol.asyncDispose]();
    await this.#lookingBeside?.done;
    await this.#endThreads();
    await this.#scanning?.catch(() => undefined);
    this.#listeners.clear();
  }

  async #scan(): Promise<ScanSummary> {
    if (this.#isDisposed) throw new BridgeError('CANCELLED', 'The registry was closed.');
    const started = performance.now();
    const { openIndex, threadEntry, threads = Math.min(MAX_THREADS, availableParallelism()) } = this.#options;
    clearTimeout(this.#threadsTimer);
    this.#threads ??= new ScanThreads({ entry: threadEntry, count: threads, silenceMs: SILENCE_MS });
    const roots = groupByPath(this.#options.roots());
    for (const path of this.#roots.keys()) if (!roots.has(path)) this.#roots.delete(path);
    this.#report({ state: 'walking', files: 0, known: 0, readBytes: 0 });
    await this.#beside.open();
    const pass = new ScanPass(await openIndex(), this.#threads, (progress) => {
      this.#report({ ...progress, state: 'reading' });
    });
    await Promise.all([...roots].map(([path, names]) => this.#scanRoot(pass, path, names)));
    await pass.finish();
    this.#changed();
    this.stats(); // the first answer after a scan comes as fast as the others
    this.#report({ ...pass.progress, state: 'done' });
    this.#threadsTimer = setTimeout(() => void this.#endThreads(), THREADS_IDLE_MS);
    this.#lookBeside();
    const summary = {
      files: pass.progress.files,
      read: pass.readFiles,
      durationMs: Math.round(performance.now() - started),
      roots: this.rootStates,
    };
    const { roots: states, ...counts } = summary;
    this.#options.logger.info({ ...counts, roots: states.length }, 'model folders scanned');
    return summary;
  }

  /** Begins to look beside the files of this scan; what an earlier one began is given up. */
  #lookBeside(): void {
    this.#lookingBeside?.stop.abort();
    const stop = new AbortController();
    const files = [...this.#roots.values()].flatMap(({ entries }) => entries);
    const look = async (): Promise<void> => {
      try {
        const isNew = await this.#beside.update(files, stop.signal);
        if (isNew && !stop.signal.aborted) {
          this.#changed();
          this.#report({ ...this.#progress });
        }
        await this.#prepareStats(stop.signal);
      } catch (error) {
        if (!stop.signal.aborted)
          this.#options.logger.warn({ reason: messageOf(error) }, 'what lies beside the models is not known');
      }
    };
    this.#lookingBeside = { done: look(), stop };
  }

  /** Sums of every grouping, one at a time, so that the first who asks for one does not wait for it. */
  async #prepareStats(signal: AbortSignal): Promise<void> {
    for (const by of STAT_GROUPINGS) {
      await nextTurn();
      if (signal.aborted) return;
      this.stats(by);
    }
  }

  async #endThreads(): Promise<void> {
    clearTimeout(this.#threadsTimer);
    const threads = this.#threads;
    this.#threads = undefined;
    await threads?.[Symbol.asyncDispose]();
  }

  async #scanRoot(pass: ScanPass, path: string, names: readonly ModelRoot[]): Promise<void> {
    let walked: WalkedFiles;
    try {
      walked = await pass.walk(path, names[0]?.excluded ?? []);
    } catch (error) {
      if (this.#isDisposed) throw error;
      const { entries = [] } = this.#roots.get(path) ?? {};
      const problems = [`${path}: ${messageOf(error)}`];
      // What was there when it last answered stays known.
      this.#roots.set(path, { path, status: 'unavailable', files: entries.length, problems, entries });
      this.#options.logger.warn({ root: path, reason: messageOf(error) }, 'a model folder is left out for now');
      this.#changed();
      return;
    }
    const rows = new Map<string, ModelRow>();
    const entries = names.flatMap((root) => entriesOf(root, walked));
    const root: WalkedRoot = {
      path,
      status: walked.isMissing ? 'missing' : 'ok',
      files: walked.names.length,
      problems: walked.problems,
      entries,
    };
    this.#roots.set(path, root);
    const publish = (): void => {
      for (let i = 0; i < entries.length; i += 1) {
        const entry = entries[i];
        const row = entry?.row === undefined && entry !== undefined ? rows.get(entry.key) : undefined;
        if (entry !== undefined && row !== undefined) entries[i] = { ...entry, row };
      }
      this.#changed();
    };
    await pass.read(path, entries, rows, publish);
    publish();
  }

  #changed(): void {
    this.#entries = undefined;
    this.#revision += 1;
  }

  #report(progress: ScanProgress): void {
    this.#progress = progress;
    for (const listener of this.#listeners) listener(progress);
  }
}

/** One scan: what it has found out so far, and what is still being written. */
class ScanPass {
  readonly #index: ModelIndexStore<ModelRow, ModelHashes>;
  readonly #threads: ScanThreads;
  readonly #onProgress: (progress: Omit<ScanProgress, 'state'>) => void;
  /** Files that are being read, or were: one with several names is read once. */
  readonly #rows = new Map<string, Promise<ModelRow | undefined>>();
  readonly #living = new Set<string>();
  readonly #writes = new Set<Promise<void>>();
  #progress = { files: 0, known: 0, readBytes: 0 };
  #reported = 0;
  readFiles = 0;

  constructor(
    index: ModelIndexStore<ModelRow, ModelHashes>,
    threads: ScanThreads,
    onProgress: (progress: Omit<ScanProgress, 'state'>) => void,
  ) {
    this.#index = index;
    this.#threads = threads;
    this.#onProgress = onProgress;
  }

  get progress(): Omit<ScanProgress, 'state'> {
    return this.#progress;
  }

  async walk(root: string, excluded: readonly string[]): Promise<WalkedFiles> {
    const answer = await this.#threads.run(root, { type: 'walk', root, excluded });
    if (answer.type !== 'walked') throw new BridgeError('INTERNAL', 'The scan answered out of turn.');
    return answer.files;
  }

  /** Fills `rows` for all entries: from the store, else from the files. */
  async read(
    root: string,
    entries: readonly ModelEntry[],
    rows: Map<string, ModelRow>,
    publish: () => void,
  ): Promise<void> {
    this.#progress.files += entries.length;
    const unknown: ModelEntry[] = [];
    for (const [i, entry] of entries.entries()) {
      if (i % LOOKUPS_PER_TURN === LOOKUPS_PER_TURN - 1) await new Promise(setImmediate);
      this.#living.add(entry.key);
      const row = this.#index.row(entry.key);
      if (row === undefined) unknown.push(entry);
      else {
        rows.set(entry.key, row);
        this.#progress.known += 1;
      }
    }
    publish();
    const batches: Promise<void>[] = [];
    const own = unknown.filter(({ key }) => !this.#rows.has(key) && this.#claim(key));
    for (let at = 0; at < own.length; at += FILES_PER_BATCH) {
      batches.push(this.#readBatch(root, own.slice(at, at + FILES_PER_BATCH)));
    }
    for (const entry of unknown) {
      const row = await this.#rows.get(entry.key);
      if (row !== undefined) rows.set(entry.key, row);
    }
    await Promise.all(batches);
  }

  /** Waits until everything is safe. */
  async finish(): Promise<void> {
    await Promise.all(this.#writes);
    await this.#index.prune(this.#living);
  }

  /** Hands a batch to the store; waits while too many are on their way, for they are held in memory. */
  async #write(models: readonly IndexedModel<ModelRow>[]): Promise<void> {
    const write = this.#index.put(models).finally(() => this.#writes.delete(write));
    this.#writes.add(write);
    while (this.#writes.size > MAX_WRITES) await Promise.race(this.#writes);
  }

  readonly #settle = new Map<string, (row: ModelRow | undefined) => void>();

  #claim(key: string): boolean {
    this.#rows.set(
      key,
      new Promise((resolve) => {
        this.#settle.set(key, resolve);
      }),
    );
    return true;
  }

  async #readBatch(root: string, entries: readonly ModelEntry[]): Promise<void> {
    try {
      const answer = await this.#threads.run(root, { type: 'read', paths: entries.map(({ path }) => path) });
      if (answer.type !== 'read') throw new BridgeError('INTERNAL', 'The scan answered out of turn.');
      const models = JSON.parse(answer.models) as ReadModel[];
      const kept: IndexedModel<ModelRow>[] = [];
      models.forEach(({ key, row, details }, i) => {
        const entry = entries[i];
        if (entry === undefined) return;
        // A file that changed since the walk is kept under what it is now; the next scan finds it there.
        if (key !== undefined) kept.push({ key, row, details });
        this.#settle.get(entry.key)?.(row);
        this.#progress.readBytes += entry.sizeBytes;
      });
      this.readFiles += entries.length;
      this.#progress.known += entries.length;
      await this.#write(kept);
    } catch (error) {
      if (error instanceof BridgeError && error.code === 'CANCELLED') throw error;
      // One file may have cost the thread its life, or hang: it fails alone.
      if (entries.length > 1) for (const entry of entries) await this.#readBatch(root, [entry]);
      else for (const { key } of entries) this.#settle.get(key)?.({ status: 'unreadable', problem: messageOf(error) });
    } finally {
      for (const { key } of entries) this.#settle.get(key)?.(undefined);
      const now = performance.now();
      if (now - this.#reported > 200) {
        this.#reported = now;
        this.#onProgress({ ...this.#progress });
      }
    }
  }
}

function groupByPath(roots: readonly ModelRoot[]): Map<string, ModelRoot[]> {
  const groups = new Map<string, ModelRoot[]>();
  for (const root of roots) groups.set(root.path, [...(groups.get(root.path) ?? []), root]);
  return groups;
}

function entriesOf(root: ModelRoot, { names, numbers }: WalkedFiles): ModelEntry[] {
  const separator = root.path.endsWith('/') ? '' : '/';
  return names.map((name, i) => {
    const at = i * NUMBERS_PER_FILE;
    const [device = 0, inode = 0, sizeBytes = 0, modifiedMs = 0, hardLinks = 1, blocks = 0] = numbers.subarray(
      at,
      at + NUMBERS_PER_FILE,
    );
    const { extensions } = root;
    return {
      path: root.path + separator + name,
      folder: root.folder,
      name,
      root: root.path,
      rootIndex: root.rootIndex,
      listedByComfyUI:
        extensions !== undefined && (extensions.size === 0 || extensions.has(extname(name).toLowerCase())),
      sizeBytes,
      sizeOnDisk: blocks * 512,
      modifiedMs,
      hardLinks,
      file: `${device}:${inode}`,
      key: rowKey({ device, inode, sizeBytes, modifiedMs }),
    };
  });
}

/** Marks files that an earlier root of the same folder name hides. */
function withShadows(entries: readonly ModelEntry[]): readonly ModelEntry[] {
  const first = new Map<string, ModelEntry>();
  for (const entry of entries) {
    const id = `${entry.folder}\0${entry.name}`;
    const known = first.get(id);
    if (known === undefined || entry.rootIndex < known.rootIndex) first.set(id, entry);
  }
  if (first.size === entries.length) return entries;
  return entries.map((entry) => {
    const winner = first.get(`${entry.folder}\0${entry.name}`);
    return winner === undefined || winner === entry || winner.path === entry.path
      ? entry
      : { ...entry, shadowedBy: winner.path };
  });
}
