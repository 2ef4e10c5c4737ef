/**
 * What lies beside the models, and which of them are parts of one: found after a scan, a little at a time, without
 * holding up anybody. Sidecars are read once for every state of them.
 */
import { basename, dirname } from 'node:path';
import { throwIfAborted } from '../common/abort.js';
import { BridgeError, ModelFormatError, messageOf } from '../common/errors.js';
import type { ModelIndexStore, Table } from '../store/index.js';
import type { ModelHashes } from './hashes.js';
import type { ModelEntry } from './entry.js';
import type { ModelRow } from './row.js';
import { gatherShards } from './shards.js';
import { listBeside, readSidecar, type FolderBeside, type ShardIndex, type SidecarClaims } from './sidecars.js';
import type { FileWorkers } from './whole-files/workers.js';

/** What is claimed of a model by the files beside it. */
export interface ModelBeside {
  /** Base names of the sidecars, most trusted first. */
  readonly sidecars: readonly string[];
  /** Of all sidecars; where several tell the same thing, the most trusted one. */
  readonly claims: SidecarClaims;
  /** The sidecar that names the base model. */
  readonly baseModelSource?: string;
  /** Path of a picture. */
  readonly preview?: string;
}

export interface BesideOptions {
  readonly workers: FileWorkers;
  readonly openIndex: () => Promise<ModelIndexStore<ModelRow, ModelHashes>>;
  /** By the state of a sidecar; null for one that tells nothing. */
  readonly openSidecars: () => Promise<Table<SidecarClaims | null>>;
}

const READS_AT_ONCE = 4;
const PER_WRITE = 256;
/** A folder that takes longer to list hangs. */
const MAX_LIST_MS = 20_000;
/** Sidecars that are gone are dropped when there are so many more entries than living ones. */
const MAX_DEAD = 50_000;

export class BesideModels {
  readonly #options: BesideOptions;
  #beside: ReadonlyMap<string, ModelBeside> = new Map();
  #indexes: ReadonlyMap<string, readonly ShardIndex[]> = new Map();
  #index: ModelIndexStore<ModelRow, ModelHashes> | undefined;
  /** A listing that hangs holds one of the few threads that Node has for files: until it ends, no other is begun. */
  #hanging: Promise<unknown> | undefined;
  /** Models in several files whose parts cannot be read together. */
  readonly #failed = new Map<string, ModelRow>();

  constructor(options: BesideOptions) {
    this.#options = options;
  }

  /** Tables of parts that cannot be used, or none of whose files are there. */
  get indexes(): readonly ShardIndex[] {
    return [...this.#indexes.values()].flat();
  }

  /** Files with what is known beside them, and models in several files as one. */
  gather(files: readonly ModelEntry[]): readonly ModelEntry[] {
    return gatherShards(this.attach(files), this.#indexes, (key) => this.#failed.get(key) ?? this.#index?.row(key));
  }

  attach(files: readonly ModelEntry[]): readonly ModelEntry[] {
    if (this.#beside.size === 0) return files;
    return files.map((entry) => {
      const beside = this.#beside.get(entry.path);
      return beside === undefined ? entry : { ...entry, beside };
    });
  }

  /** What was found out about models in several files is known from then on. */
  async open(): Promise<void> {
    this.#index ??= await this.#options.openIndex();
  }

  /** Looks at the folders of these files again. Resolves to whether answers may have changed. */
  async update(files: readonly ModelEntry[], signal: AbortSignal): Promise<boolean> {
    await this.open();
    const folders = [...new Set(files.map(({ path }) => dirname(path)))];
    const found: FolderBeside[] = [];
    for (const folder of folders) {
      throwIfAborted(signal);
      found.push(await this.#list(folder));
    }
    const before = JSON.stringify([[...this.#beside], [...this.#indexes]]);
    this.#indexes = new Map(
      found.flatMap(({ folder, indexes }) => (indexes.length === 0 ? [] : [[folder, indexes] as const])),
    );
    this.#beside = await this.#readSidecars(found, signal);
    const hasJoined = await this.#join(files, signal);
    return hasJoined || before !== JSON.stringify([[...this.#beside], [...this.#indexes]]);
  }

  /** @throws {ModelFormatError} `MODEL_UNREADABLE` when the folder, or one before it, does not answer */
  async #list(folder: string): Promise<FolderBeside> {
    const hangs = new ModelFormatError('MODEL_UNREADABLE', `${folder} does not answer.`, { details: { folder } });
    if (this.#hanging !== undefined) throw hangs;
    const listing = listBeside(folder);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        this.#hanging = listing.finally(() => (this.#hanging = undefined));
        reject(hangs);
      }, MAX_LIST_MS);
    });
    try {
      return await Promise.race([listing, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  async #readSidecars(found: readonly FolderBeside[], signal: AbortSignal): Promise<Map<string, ModelBeside>> {
    const sidecars = found.flatMap(({ models }) => models.flatMap((model) => model.sidecars));
    const claims = new Map<string, SidecarClaims | null>();
    if (sidecars.length > 0) {
      const table = await this.#options.openSidecars();
      const unknown: { readonly path: string; readonly key: string }[] = [];
      for (const sidecar of sidecars) {
        const known = table.get(sidecar.key);
        if (known === undefined) unknown.push(sidecar);
        else claims.set(sidecar.key, known);
      }
      for (let at = 0; at < unknown.length; at += PER_WRITE) {
        const read: (readonly [string, SidecarClaims | null])[] = [];
        const batch = unknown.slice(at, at + PER_WRITE);
        for (let i = 0; i < batch.length; i += READS_AT_ONCE) {
          throwIfAborted(signal);
          const some = batch.slice(i, i + READS_AT_ONCE);
          const told = await Promise.all(some.map(({ path }) => readSidecar(path)));
          some.forEach(({ key }, n) => read.push([key, told[n] ?? null]));
        }
        for (const [key, value] of read) claims.set(key, value);
        await table.put(read);
      }
      if (table.count > claims.size * 2 + MAX_DEAD)
        await table.remove([...table.entries()].flatMap(({ key }) => (claims.has(key) ? [] : [key])));
    }
    const beside = new Map<string, ModelBeside>();
    for (const { folder, models } of found) {
      for (const { name, preview, sidecars: own } of models) {
        const told = own.flatMap(({ path, key }) => {
          const claim = claims.get(key);
          return claim === undefined || claim === null ? [] : [{ name: basename(path), claim }];
        });
        if (told.length === 0 && preview === undefined) continue;
        const source = told.find(({ claim }) => claim.baseModelText !== undefined)?.name;
        beside.set(`${folder}/${name}`, {
          sidecars: told.map((sidecar) => sidecar.name),
          claims: mergeClaims(told.map(({ claim }) => claim)),
          ...(source === undefined ? {} : { baseModelSource: source }),
          ...(preview === undefined ? {} : { preview }),
        });
      }
    }
    return beside;
  }

  /** Describes models in several files that are not known yet. */
  async #join(files: readonly ModelEntry[], signal: AbortSignal): Promise<boolean> {
    let hasJoined = false;
    for (const { key, row, shards } of this.gather(files)) {
      if (shards === undefined || row !== undefined || shards.parts.some((part) => part.row === undefined)) continue;
      throwIfAborted(signal);
      const paths = shards.parts.map(({ path }) => path);
      try {
        const joined = await this.#options.workers.run('joinShards', { paths }, { signal });
        // One that was written to meanwhile is found by the next scan.
        if (joined.keys.some((partKey, i) => partKey !== shards.parts[i]?.key)) continue;
        await this.#index?.put([{ key, row: joined.row, details: Buffer.from(joined.details) }]);
      } catch (error) {
        if (error instanceof BridgeError && error.code === 'CANCELLED') throw error;
        this.#failed.set(key, { status: 'invalid', problem: messageOf(error) });
      }
      hasJoined = true;
    }
    return hasJoined;
  }
}

/** Every claim from the first that makes it. A base model keeps its own words. */
function mergeClaims(all: readonly SidecarClaims[]): SidecarClaims {
  let merged: SidecarClaims = {};
  for (const claims of all.toReversed()) merged = { ...merged, ...claims };
  const named = all.find(({ baseModelText }) => baseModelText !== undefined);
  const rest = Object.fromEntries(Object.entries(merged).filter(([name]) => !name.startsWith('baseModel')));
  const hashes = Object.assign({}, ...all.toReversed().map((claims) => claims.hashes ?? {})) as Record<string, string>;
  return {
    ...rest,
    ...(named?.baseModel === undefined ? {} : { baseModel: named.baseModel }),
    ...(named?.baseModelText === undefined ? {} : { baseModelText: named.baseModelText }),
    ...(Object.keys(hashes).length === 0 ? {} : { hashes }),
  };
}
