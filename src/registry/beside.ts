/**
 * What lies beside the models, and which of them are parts of one: found after a scan, in a thread, without holding up
 * anybody. Sidecars are read once for every state of them.
 */
import { basename, dirname } from 'node:path';
import { throwIfAborted } from '../common/abort.js';
import { BridgeError, messageOf } from '../common/errors.js';
import type { ModelIndexStore, Table } from '../store/index.js';
import type { ModelHashes } from './hashes.js';
import type { ModelEntry } from './registry.js';
import type { ModelRow } from './row.js';
import { gatherShards } from './shards.js';
import type { FolderBeside, ShardIndex, SidecarClaims } from './sidecars.js';
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

/** A message between threads holds so many folders, or sidecars: few enough that cancelling is quick. */
const PER_REQUEST = 256;
/** Sidecars that are gone are dropped when there are so many more entries than living ones. */
const MAX_DEAD = 50_000;

export class BesideModels {
  readonly #options: BesideOptions;
  #beside: ReadonlyMap<string, ModelBeside> = new Map();
  #indexes: ReadonlyMap<string, readonly ShardIndex[]> = new Map();
  #index: ModelIndexStore<ModelRow, ModelHashes> | undefined;
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

  /** Looks at the folders of these files again. Resolves to whether answers may have changed. */
  async update(files: readonly ModelEntry[], signal: AbortSignal): Promise<boolean> {
    this.#index ??= await this.#options.openIndex();
    const folders = [...new Set(files.map(({ path }) => dirname(path)))];
    const found: FolderBeside[] = [];
    for (let at = 0; at < folders.length; at += PER_REQUEST) {
      const input = { folders: folders.slice(at, at + PER_REQUEST) };
      found.push(...(await this.#options.workers.run('listBeside', input, { signal })));
    }
    const before = JSON.stringify([[...this.#beside], [...this.#indexes]]);
    this.#indexes = new Map(
      found.flatMap(({ folder, indexes }) => (indexes.length === 0 ? [] : [[folder, indexes] as const])),
    );
    this.#beside = await this.#readSidecars(found, signal);
    const hasJoined = await this.#join(files, signal);
    return hasJoined || before !== JSON.stringify([[...this.#beside], [...this.#indexes]]);
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
      for (let at = 0; at < unknown.length; at += PER_REQUEST) {
        const batch = unknown.slice(at, at + PER_REQUEST);
        const paths = batch.map(({ path }) => path);
        const read = await this.#options.workers.run('readSidecars', { paths }, { signal });
        const entries = batch.map(({ key }, i) => [key, read[i] ?? null] as const);
        for (const [key, value] of entries) claims.set(key, value);
        await table.put(entries);
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
        await this.#index?.put([{ key, row: joined.row, details: joined.details }]);
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
  const { baseModel: _base, baseModelText: _text, ...rest } = merged;
  const hashes = Object.assign({}, ...all.toReversed().map((claims) => claims.hashes ?? {})) as Record<string, string>;
  return {
    ...rest,
    ...(named?.baseModel === undefined ? {} : { baseModel: named.baseModel }),
    ...(named?.baseModelText === undefined ? {} : { baseModelText: named.baseModelText }),
    ...(Object.keys(hashes).length === 0 ? {} : { hashes }),
  };
}
