/**
 * Keeps count of which models are used: by the history of a running ComfyUI, which forgets it at its end, and by the
 * pictures of the output folder, which people delete. What was counted once stays counted.
 */
import { BridgeError, messageOf } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import { SingleFlight } from '../common/single-flight.js';
import type { ModelEntry } from '../registry/index.js';
import type { Table } from '../store/index.js';
import { QueueWatch, readNewPrompts } from '../upstream/index.js';
import { countUsage, describeRun, type Usage, type UsageRun } from './usage.js';
import { listPictures, readPictureRun } from './usage-pictures.js';

export interface UsageTables {
  /** By `prompt` and id, or `picture` and digest. */
  readonly runs: Table<UsageRun>;
  /** Pictures that were looked at, by their state. */
  readonly pictures: Table<true>;
}

export interface UsageTrackerOptions {
  readonly outputDirectory: string;
  /** A running ComfyUI. */
  readonly comfyuiUrl?: string | undefined;
  readonly openTables: () => Promise<UsageTables>;
  readonly logger: Logger;
}

export interface TrackedUsage extends Usage {
  readonly outputDirectory: string;
  readonly comfyuiUrl?: string;
  /** Why a source could not be asked; what it told before counts all the same. */
  readonly problems: readonly string[];
}

/** Runs that are remembered; the oldest go first. */
const MAX_RUNS = 100_000;
const PICTURES_AT_ONCE = 8;
const PER_WRITE = 256;
/** Changes of a queue come in bursts. */
const SETTLE_MS = 300;

export class UsageTracker implements AsyncDisposable {
  readonly #options: UsageTrackerOptions;
  readonly #stop = new AbortController();
  readonly #flights = new SingleFlight<'history', void>();
  #watch: QueueWatch | undefined;
  #timer: NodeJS.Timeout | undefined;
  #syncing: Promise<void> | undefined;

  constructor(options: UsageTrackerOptions) {
    this.#options = options;
  }

  /** Follows the running ComfyUI, if one is named, until it is disposed. */
  start(): void {
    const { comfyuiUrl, logger } = this.#options;
    if (comfyuiUrl === undefined || this.#watch !== undefined) return;
    const onChange = (): void => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => {
        this.#syncing = this.#sync().catch((error: unknown) => {
          if (!this.#stop.signal.aborted)
            logger.debug({ reason: messageOf(error) }, 'the history of ComfyUI was not read');
        });
      }, SETTLE_MS).unref();
    };
    this.#watch = new QueueWatch(comfyuiUrl, { onChange, logger });
  }

  /** Looks at what is new, and counts. @throws {BridgeError} `CANCELLED` */
  async usage(
    entries: readonly ModelEntry[],
    { signal }: { readonly signal?: AbortSignal } = {},
  ): Promise<TrackedUsage> {
    const { comfyuiUrl, outputDirectory } = this.#options;
    const problems: string[] = [];
    try {
      if (comfyuiUrl !== undefined) await this.#sync();
    } catch (error) {
      if (!(error instanceof BridgeError) || error.code !== 'UPSTREAM_UNAVAILABLE') throw error;
      problems.push(error.message);
    }
    await this.#readPictures(signal);
    const { runs } = await this.#options.openTables();
    const all = [...runs.entries()].map(({ value }) => value);
    return {
      ...countUsage(all, entries),
      outputDirectory,
      ...(comfyuiUrl === undefined ? {} : { comfyuiUrl }),
      problems,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    clearTimeout(this.#timer);
    this.#watch?.[Symbol.dispose]();
    await this.#syncing;
  }

  /** Reads what ran since the last time; callers at the same time share one reading. */
  #sync(): Promise<void> {
    return this.#flights.run('history', () => this.#readHistory());
  }

  async #readHistory(): Promise<void> {
    const { comfyuiUrl, openTables } = this.#options;
    if (comfyuiUrl === undefined) return;
    const { runs } = await openTables();
    const isKnown = (id: string): boolean => runs.get(promptKey(id)) !== undefined;
    const prompts = await readNewPrompts(comfyuiUrl, { isKnown, signal: this.#stop.signal });
    await runs.put(
      prompts.map(({ id, ranAtMs, graph, workflowId }) => [
        promptKey(id),
        {
          source: `prompt ${id}`,
          usedAtMs: ranAtMs,
          ...describeRun(graph),
          ...(workflowId === undefined ? {} : { workflowId }),
        },
      ]),
    );
    await forgetOldest(runs);
  }

  async #readPictures(signal: AbortSignal | undefined): Promise<void> {
    const { runs, pictures } = await this.#options.openTables();
    const files = await listPictures(this.#options.outputDirectory, signal);
    const unknown = files.filter(({ key }) => pictures.get(key) === undefined);
    for (let at = 0; at < unknown.length; at += PER_WRITE) {
      const batch = unknown.slice(at, at + PER_WRITE);
      const found = new Map<string, UsageRun>();
      for (let i = 0; i < batch.length; i += PICTURES_AT_ONCE) {
        signal?.throwIfAborted();
        for (const run of await Promise.all(batch.slice(i, i + PICTURES_AT_ONCE).map(readPictureRun))) {
          if (run === undefined) continue;
          const key = `picture ${run.digest}`;
          const known = found.get(key) ?? runs.get(key);
          if (known === undefined || known.usedAtMs < run.usedAtMs) found.set(key, run);
        }
      }
      await runs.put(found);
      await pictures.put(batch.map(({ key }) => [key, true]));
    }
    await forgetOldest(runs);
  }
}

function promptKey(id: string): string {
  return `prompt ${id}`.slice(0, 500);
}

async function forgetOldest(runs: Table<UsageRun>): Promise<void> {
  if (runs.count <= MAX_RUNS) return;
  const all = [...runs.entries()].sort((a, b) => a.value.usedAtMs - b.value.usedAtMs);
  // A tenth at once: this reads all of them.
  await runs.remove(all.slice(0, Math.ceil(runs.count - MAX_RUNS * 0.9)).map(({ key }) => key));
}
