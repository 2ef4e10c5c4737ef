/**
 * Notices that a folder or a configuration file changed.
 *
 * Every folder of interest is watched by itself, so that folders behind links count as well; what cannot be watched
 * (network disks, a folder that does not exist yet, an exhausted limit of the system) is looked at from time to time.
 */
import { watch, type FSWatcher } from 'node:fs';
import { stat } from 'node:fs/promises';

export interface FolderWatcherOptions {
  /** Called at once, for every path that changed. */
  readonly onNotice: (path: string) => void;
  /** Called once per burst with the paths that changed. */
  readonly onChange: (paths: ReadonlySet<string>) => void;
}

/** A burst is over when nothing happened for this long … */
const QUIET_MS = 150;
/** … and is reported by then in any case. */
const MAX_DELAY_MS = 700;
/** Paths that the system does not report on are looked at this often. */
const POLL_MS = 700;
/** Watched paths are looked at too, rarely: some network disks take a watch and never report. */
const ROUNDS_BETWEEN_FULL_POLLS = 14;

export class FolderWatcher implements AsyncDisposable {
  readonly #options: FolderWatcherOptions;
  readonly #watchers = new Map<string, FSWatcher | undefined>();
  readonly #stamps = new Map<string, string>();
  readonly #changed = new Set<string>();
  readonly #pollTimer: NodeJS.Timeout;
  #reportTimer: NodeJS.Timeout | undefined;
  #burstBegan = 0;
  #round = 0;
  /** Paths that are being looked at: on a disk that does not answer that takes until it does. */
  readonly #asked = new Set<string>();

  constructor(options: FolderWatcherOptions) {
    this.#options = options;
    this.#pollTimer = setInterval(() => void this.#poll(), POLL_MS);
    this.#pollTimer.unref();
  }

  /** Sets the paths of interest: folders and files, there or not. */
  async track(paths: ReadonlySet<string>): Promise<void> {
    for (const path of this.#watchers.keys()) {
      if (!paths.has(path)) this.#forget(path);
    }
    await Promise.all(
      [...paths]
        .filter((path) => !this.#watchers.has(path))
        .map(async (path) => {
          this.#watchers.set(path, this.#watch(path));
          this.#stamps.set(path, await stampOf(path));
        }),
    );
  }

  [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#pollTimer);
    clearTimeout(this.#reportTimer);
    for (const path of [...this.#watchers.keys()]) this.#forget(path);
    return Promise.resolve();
  }

  #watch(path: string): FSWatcher | undefined {
    try {
      const watcher = watch(path, { persistent: false }, () => {
        this.#note(path);
      });
      watcher.on('error', () => {
        watcher.close();
        this.#watchers.set(path, undefined);
        this.#note(path);
      });
      return watcher;
    } catch {
      return undefined; // polled instead
    }
  }

  #forget(path: string): void {
    this.#watchers.get(path)?.close();
    this.#watchers.delete(path);
    this.#stamps.delete(path);
  }

  async #poll(): Promise<void> {
    this.#round += 1;
    const isFull = this.#round % ROUNDS_BETWEEN_FULL_POLLS === 0;
    const due = [...this.#watchers].filter(([, watcher]) => isFull || watcher === undefined).map(([path]) => path);
    await Promise.all(
      due.map(async (path) => {
        if (this.#asked.has(path)) return;
        this.#asked.add(path);
        const stamp = await stampOf(path).finally(() => this.#asked.delete(path));
        if (!this.#watchers.has(path) || this.#stamps.get(path) === stamp) return;
        this.#stamps.set(path, stamp);
        // What appeared can be watched from now on.
        if (this.#watchers.get(path) === undefined) this.#watchers.set(path, this.#watch(path));
        this.#note(path);
      }),
    );
  }

  #note(path: string): void {
    this.#options.onNotice(path);
    const now = performance.now();
    if (this.#changed.size === 0) this.#burstBegan = now;
    this.#changed.add(path);
    clearTimeout(this.#reportTimer);
    const delay = Math.max(0, Math.min(QUIET_MS, this.#burstBegan + MAX_DELAY_MS - now));
    this.#reportTimer = setTimeout(() => {
      const changed = new Set(this.#changed);
      this.#changed.clear();
      this.#options.onChange(changed);
    }, delay);
    this.#reportTimer.unref();
  }
}

async function stampOf(path: string): Promise<string> {
  try {
    const { dev, ino, mtimeMs, size } = await stat(path);
    return `${dev}:${ino}:${mtimeMs}:${size}`;
  } catch {
    return 'absent';
  }
}
