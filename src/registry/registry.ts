/**
 * The index of all model files: scanned in threads, kept in the store, asked from memory.
 *
 * A scan walks every root and reads the headers of files that the store does not know yet. Meanwhile queries answer with
 * what is there, and say so. Nothing starts by itself: bridge.ts or a command starts the scan.
 */
import { availableParallelism } from 'node:os';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { BridgeError, messageOf } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import { STAT_GROUPINGS } from '../protocol/registry.js';
import type { ModelIndexStore, Table } from '../store/index.js';
import { BesideModels } from './beside.js';
import { withShadows, type ModelEntry, type ModelRoot } from './entry.js';
import type { ModelHashes } from './hashes.js';
import { queryModels, type ModelQuery, type QueryResult } from './query.js';
import type { ModelReading } from './read-model.js';
import type { ModelRow } from './row.js';
import { ScanPass, type FoundRoot, type PassProgress } from './scan/pass.js';
import { ScanThreads } from './scan/threads.js';
import type { ShardIndex, SidecarClaims } from './sidecars.js';
import { computeStats, type Grouping, type ModelStats } from './stats.js';
import type { ValueCheck } from './values.js';
import { ModelContents } from './whole-files/contents.js';
import { FileWorkers, type FileWorkOptions } from './whole-files/workers.js';

export interface ScanProgress extends PassProgress {
  readonly state: 'idle' | 'walking' | 'reading' | 'done';
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
    let found: FoundRoot;
    try {
      found = await pass.walk(path, names);
    } catch (error) {
      if (this.#isDisposed || !(error instanceof BridgeError)) throw error;
      // What was there when it last answered stays known.
      const { entries = [] } = this.#roots.get(path) ?? {};
      pass.keep(entries);
      const problems = [`${path}: ${messageOf(error)}`];
      this.#roots.set(path, { path, status: 'unavailable', files: entries.length, problems, entries });
      this.#options.logger.warn({ root: path, reason: messageOf(error) }, 'a model folder is left out for now');
      this.#changed();
      return;
    }
    const { entries, files, problems, isMissing, complete } = found;
    this.#roots.set(path, { path, status: isMissing ? 'missing' : 'ok', files, problems, entries });
    this.#changed();
    await complete();
    this.#changed();
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

function groupByPath(roots: readonly ModelRoot[]): Map<string, ModelRoot[]> {
  const groups = new Map<string, ModelRoot[]>();
  for (const root of roots) groups.set(root.path, [...(groups.get(root.path) ?? []), root]);
  return groups;
}
