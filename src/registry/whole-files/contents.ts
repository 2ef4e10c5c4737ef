/**
 * What only reading a whole file tells: its hashes, and whether its values are numbers. Found when somebody asks, or by and
 * by in the background; kept by the identity of the file.
 */
import { InvalidRequestError } from '../../common/errors.js';
import type { ModelIndexStore, Table } from '../../store/index.js';
import type { ModelHashes } from '../hashes.js';
import type { ModelReading } from '../read-model.js';
import type { ModelEntry } from '../entry.js';
import type { ModelRow } from '../row.js';
import type { ValueCheck } from '../values.js';
import type { FileWorkers, FileWorkOptions } from './workers.js';

export interface ContentsOptions {
  readonly workers: FileWorkers;
  readonly openIndex: () => Promise<ModelIndexStore<ModelRow, ModelHashes>>;
  readonly openValues: () => Promise<Table<ValueCheck>>;
}

export class ModelContents {
  readonly #options: ContentsOptions;

  constructor(options: ContentsOptions) {
    this.#options = options;
  }

  /** Hashes that were made earlier. */
  async knownHashes({ key }: ModelEntry): Promise<ModelHashes | undefined> {
    const hashes: Partial<ModelHashes> | undefined = (await this.#options.openIndex()).hashes(key);
    // Those of an earlier version lack what came later: they are made again.
    return hashes?.blake3 === undefined ? undefined : (hashes as ModelHashes);
  }

  /**
   * Hashes of one file: kept ones, or made now by reading it whole.
   *
   * @throws {InvalidRequestError} for a model in several files: its parts have hashes.
   */
  async hash(entry: ModelEntry, options: FileWorkOptions = {}): Promise<ModelHashes> {
    requireOneFile(entry);
    const known = await this.knownHashes(entry);
    if (known !== undefined) return known;
    const index = await this.#options.openIndex();
    const details = index.details(entry.key);
    const { format, headerBytes } = details === undefined ? {} : (JSON.parse(details) as Partial<ModelReading>);
    const dataStart = format === 'safetensors' && headerBytes !== undefined ? headerBytes + 8 : undefined;
    const { value, key } = await this.#options.workers.run('hash', { path: entry.path, dataStart }, options);
    // A file that was replaced since the scan has another header: what follows it is unknown.
    if (key === entry.key || dataStart === undefined) await index.putHashes(key, value);
    if (key === entry.key) return value;
    const { sha256, autoV1, autoV2, crc32, blake3 } = value;
    return { sha256, autoV1, autoV2, crc32, blake3 };
  }

  async knownValues({ key, shards }: ModelEntry): Promise<ValueCheck | undefined> {
    const table = await this.#options.openValues();
    if (shards === undefined) return table.get(key);
    const parts = shards.parts.map((part) => table.get(part.key));
    return parts.every((part) => part !== undefined) ? sumChecks(parts) : undefined;
  }

  /**
   * Counts NaN and infinity among the values of a model, of all its files: kept, or found now by reading it whole.
   *
   * @throws {ModelFormatError} what reading the file throws; {InvalidRequestError} for one that is not whole.
   */
  async checkValues(entry: ModelEntry, options: FileWorkOptions = {}): Promise<ValueCheck> {
    const known = await this.knownValues(entry);
    if (known !== undefined) return known;
    if (entry.shards !== undefined) {
      const checks: ValueCheck[] = [];
      let before = 0;
      for (const part of entry.shards.parts) {
        const start = before;
        checks.push(
          await this.checkValues(part, { ...options, onProgress: (done) => options.onProgress?.(start + done) }),
        );
        before += part.sizeBytes;
      }
      return sumChecks(checks);
    }
    const { path, row } = entry;
    if (row?.status !== 'ok' || row.format === undefined)
      throw new InvalidRequestError(`${path} is not whole: ${row?.problem ?? 'it was not read yet'}.`);
    const { value, key } = await this.#options.workers.run('checkValues', { path, format: row.format }, options);
    await (await this.#options.openValues()).put([[key, value]]);
    return value;
  }
}

function requireOneFile({ path, shards }: ModelEntry): void {
  if (shards === undefined) return;
  throw new InvalidRequestError(`${path} is one of ${shards.parts.length} parts of a model: name the part to hash.`);
}

function sumChecks(checks: readonly ValueCheck[]): ValueCheck {
  const sum = (value: (check: ValueCheck) => number): number =>
    checks.reduce((total, check) => total + value(check), 0);
  const unchecked: Record<string, number> = {};
  for (const check of checks)
    for (const [dtype, count] of Object.entries(check.unchecked)) unchecked[dtype] = (unchecked[dtype] ?? 0) + count;
  return {
    checkedTensors: sum(({ checkedTensors }) => checkedTensors),
    checkedValues: sum(({ checkedValues }) => checkedValues),
    nan: sum(({ nan }) => nan),
    infinite: sum(({ infinite }) => infinite),
    badTensors: sum(({ badTensors }) => badTensors),
    tensors: checks.flatMap(({ tensors }) => tensors),
    unchecked,
  };
}
