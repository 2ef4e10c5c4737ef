/**
 * Sessions of encoders that are in memory, inside the inference process.
 *
 * They are kept within a budget of memory, the least recently used one going first. Sizes are estimated before anything is
 * loaded: on the CPU weights stay as they are in the file, and each is made fp32 for the moment of its use; other devices
 * hold fp32 copies.
 */
import { totalmem } from 'node:os';
import { BridgeError } from '../common/errors.js';
import { readModelHeader, readSafetensorsHeader, readStampKey } from '../formats/index.js';
import type { GraphOptions } from '../onnx/index.js';
import { Session, type Device, type Progress } from '../runtime/index.js';
import { buildVisionGraph, type WeightSource } from './graph.js';
import { MicroBatch } from './micro-batch.js';
import { resolveVisionModel, type ResolvedModel, type VisionModel } from './model.js';
import { quantizedWeights, storedWeights, type Precision } from './weight-values.js';

/** Which session a call needs. */
export interface ModelRequest {
  /** Real path of the weights. */
  readonly path: string;
  readonly precision: Precision;
  /** Real path of the quantised weights; with `int8` only. */
  readonly quantized?: string;
  readonly device: Device;
  /** All hidden states are large: a graph that keeps them is a session of its own. */
  readonly keepsAllStates: boolean;
  /** The layer whose result is the penultimate hidden states, where it is not the last but one. */
  readonly intermediate?: number;
  /** What all sessions together may take. */
  readonly memoryBudgetBytes?: number;
}

export interface OpenModel {
  readonly resolved: ResolvedModel;
  readonly session: Session;
  readonly microBatch: MicroBatch;
  readonly estimatedBytes: number;
}

/** A model whose session may be exchanged for a faster one. */
interface HeldModel extends OpenModel {
  session: Session;
  microBatch: MicroBatch;
  /** Makes the session anew; absent where its weights are packed, or cannot be. */
  create: ((isUnpacked: boolean) => Promise<Session>) | undefined;
  /** Pictures that were asked for. */
  pictures: number;
}

/** Without a budget, models that are not in use may take half of the machine. */
const DEFAULT_SHARE = 0.5;
/** What onnxruntime needs beside the weights. */
const OVERHEAD = 1.1;
/** Bound of a run's largest values, all that live at once together. */
const MAX_ACTIVATION_BYTES = 256 * 2 ** 20;
const LIVE_VALUES = 4;
const MAX_MICRO_BATCH = 64;
/**
 * int8 weights are not packed at first: the first features are there a second sooner. Packing takes about as long as is
 * lost without it over so many pictures; then it is done at once, for fewer when nobody waits.
 */
const PICTURES_WORTH_PACKING = 24;
const PICTURES_WORTH_PACKING_IDLE = 4;

export class OpenModels {
  readonly #open = new Map<string, HeldModel>();

  /**
   * The session for a request, loaded if need be. Kept until others need its memory.
   *
   * @param pictures How many are to be run now.
   * @throws {ModelNotFoundError}, {ModelFormatError}; {BridgeError} `MEMORY_BUDGET_EXCEEDED`, `RUNTIME_FAILED`, `DEVICE_UNAVAILABLE`.
   */
  async acquire(request: ModelRequest, pictures: number, report: (progress: Progress) => void): Promise<OpenModel> {
    const key = keyOf(request, await readStampKey(request.path));
    let held = this.#open.get(key);
    if (held === undefined) {
      report({ stage: 'loading', model: request.path });
      held = await this.#load(request, pictures, report);
      this.#open.set(keyOf(request, held.resolved.model.stamp), held);
    } else {
      this.#open.delete(key);
      this.#open.set(key, held);
    }
    held.pictures += pictures;
    if (held.pictures >= PICTURES_WORTH_PACKING) await this.#pack(held);
    return held;
  }

  /** Makes models faster that are in use. */
  async tidy(): Promise<void> {
    for (const held of this.#open.values()) {
      if (held.pictures < PICTURES_WORTH_PACKING_IDLE) continue;
      // Who needs the model next hears of a failure that lasts.
      await this.#pack(held).catch(() => undefined);
    }
  }

  /** Exchanges the session for one with packed weights, where it lacks them. */
  async #pack(held: HeldModel): Promise<void> {
    const { create } = held;
    if (create === undefined) return;
    held.create = undefined;
    // Both at once would take twice the memory.
    await held.session[Symbol.asyncDispose]();
    try {
      held.session = await create(false).catch(() => create(true));
    } catch (error) {
      for (const [key, other] of this.#open) if (other === held) this.#open.delete(key);
      throw error;
    }
    held.microBatch = microBatchOf(held.resolved);
  }

  async #load(request: ModelRequest, pictures: number, report: (progress: Progress) => void): Promise<HeldModel> {
    const resolved = resolveVisionModel(await readModelHeader(request.path));
    const { model } = resolved;
    const quantized = request.quantized === undefined ? undefined : await readSafetensorsHeader(request.quantized);
    const estimatedBytes = Math.ceil(OVERHEAD * (quantized?.sizeBytes ?? weightBytes(resolved, request.device)));
    await this.#makeRoom(estimatedBytes, request, model);

    const { precision } = request;
    const outputs = model.outputs.filter((output) => request.keepsAllStates || output !== 'all_hidden_states');
    const source: WeightSource = (g) => {
      if (precision !== 'int8') return storedWeights(g, resolved, precision);
      if (quantized === undefined) throw new BridgeError('INTERNAL', 'int8 without quantised weights');
      return quantizedWeights(g, resolved, quantized);
    };
    const layer = request.intermediate === undefined ? {} : { intermediate: request.intermediate };
    const graph = (options: GraphOptions): Uint8Array =>
      buildVisionGraph(resolved, source, outputs, { ...layer, ...options });
    const isInt8 = precision === 'int8';
    const create = (isUnpacked: boolean): Promise<Session> =>
      Session.create(graph, {
        weightsFolder: quantized?.folder ?? model.folder,
        device: request.device,
        isInt8,
        // Without int8, packing takes another copy of the weights for a few percent.
        isUnpacked: isUnpacked || !isInt8,
        isAsBuilt: true,
        onFallback: (reason) => {
          report({ stage: 'fallback', reason });
        },
      });
    const isUnpacked = isInt8 && pictures < PICTURES_WORTH_PACKING;
    return {
      resolved,
      session: await create(isUnpacked),
      microBatch: microBatchOf(resolved),
      estimatedBytes,
      create: isUnpacked ? create : undefined,
      pictures: 0,
    };
  }

  async #makeRoom(
    bytes: number,
    { memoryBudgetBytes, precision }: ModelRequest,
    { family, parameters }: VisionModel,
  ): Promise<void> {
    if (memoryBudgetBytes !== undefined && bytes > memoryBudgetBytes) {
      const advice =
        precision === 'int8'
          ? 'Raise'
          : `Ask for the precision int8, which needs about ${gigabytes(OVERHEAD * parameters)}, or raise`;
      throw new BridgeError(
        'MEMORY_BUDGET_EXCEEDED',
        `${family} needs about ${gigabytes(bytes)} in memory in ${precision}; --memory-budget allows ${gigabytes(memoryBudgetBytes)}. ${advice} the budget.`,
        { details: { neededBytes: bytes, budgetBytes: memoryBudgetBytes } },
      );
    }
    const budget = memoryBudgetBytes ?? DEFAULT_SHARE * totalmem();
    for (const [oldest, { session }] of this.#open) {
      if (this.#totalBytes() + bytes <= budget) break;
      this.#open.delete(oldest);
      await session[Symbol.asyncDispose]();
    }
  }

  #totalBytes(): number {
    return [...this.#open.values()].reduce((sum, { estimatedBytes }) => sum + estimatedBytes, 0);
  }
}

/** As many pictures at once as a bound of memory allows. */
function microBatchOf({ family, model: { config } }: ResolvedModel): MicroBatch {
  const tokens = family.tokens(config) ?? config.maxPatches ?? 0;
  const perPicture = LIVE_VALUES * tokens * config.intermediateSize * Float32Array.BYTES_PER_ELEMENT;
  return new MicroBatch(Math.max(1, Math.min(MAX_MICRO_BATCH, Math.floor(MAX_ACTIVATION_BYTES / perPicture))));
}

/** What a session holds of weights that are not quantised. */
function weightBytes({ weights, model }: ResolvedModel, device: Device): number {
  if (device !== 'cpu') return Float32Array.BYTES_PER_ELEMENT * model.parameters;
  return [...weights.ranges.values()].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}

function keyOf({ precision, quantized, device, keepsAllStates, intermediate }: ModelRequest, stamp: string): string {
  return JSON.stringify([stamp, precision, quantized, device, keepsAllStates, intermediate]);
}
