/**
 * The vision engine: opens encoders by header and encodes images with them.
 *
 * Nothing heavy happens on the caller's thread. Opening reads a header; pictures are resampled in threads; what was encoded
 * before comes out of the feature cache; the rest is one call to the inference process, which runs what waits together.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { throwIfAborted } from '../common/abort.js';
import { BridgeError, InvalidRequestError } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import { readModelHeader, stampKeyOrNone } from '../formats/index.js';
import { readImageInput, type ImageInput } from '../image/index.js';
import type { Device, InferenceProcess, Progress, ThreadPool } from '../runtime/index.js';
import { viewRows, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import { FeatureCache, type FeatureMemory, type FeatureSource } from './feature-cache.js';
import { checkCount, checkInput, encodedBytesOf, encodedImage, isSmall, memoryOf } from './input.js';
import { recallFile, type KnownFile } from './known-files.js';
import { embeddingDim, resolveVisionModel, type VisionModel } from './model.js';
import { groupPictures, NamedPictures, type NamedFeatures } from './named-pictures.js';
import { ENCODE_OPERATION, LOAD_OPERATION, type EncodeReply, type EncodeRequest } from './operation.js';
import type { ModelRequest } from './open-models.js';
import {
  defaultOutputs,
  layerOf,
  requireOutputs,
  type EncodeOptions,
  type NameOptions,
  type VisionInput,
} from './options.js';
import { joinFeatures, OUTPUT_FIELDS, pickRows, rowOf, toVisionOutput, type VisionOutput } from './output.js';
import type { Quantizer } from './quantizer.js';
import { recall, recallOne, remember, type Run } from './run.js';
import { encodeInTiles, formsSquare, readTiling, type EncodedPictures, type Tiling } from './tiles.js';
import { PREPARE_TASK, preparePictures, type Prepared } from './thread-tasks.js';
import { WeightsIdentity, type HashMemory } from './weights-identity.js';

/** What the engine remembers between runs, opened when it is first needed. */
interface EngineMemory {
  readonly fileHashes: HashMemory;
  /** Absent where features are not kept. */
  readonly features?: FeatureMemory;
}

export interface VisionEngineOptions {
  readonly inference: InferenceProcess;
  readonly threads: ThreadPool;
  readonly quantizer: Quantizer;
  readonly memory: () => Promise<EngineMemory>;
  readonly logger: Logger;
  /** Default `cpu`. */
  readonly device?: Device;
  /** Bytes that all encoders in memory may take together. */
  readonly memoryBudgetBytes?: number;
  /** Encodes that may wait or run at once; more are refused with BUSY. */
  readonly maxPending: number;
}

/** Headers that are remembered. */
const MAX_OPENED = 64;
/** Copying features into the store takes as long as sending them: the answer goes first. */
const KEPT_AFTER_MS = 50;

export class VisionEngine {
  readonly #options: VisionEngineOptions;
  /** Encoders whose header was read; it is read again when the file has changed. */
  readonly #opened = new Map<string, VisionModel>();
  #hasWarnedOfFallback = false;
  #pending = 0;
  #memory: Promise<{ identity: WeightsIdentity; cache: FeatureCache | undefined }> | undefined;

  constructor(options: VisionEngineOptions) {
    this.#options = options;
  }

  /**
   * Reads the header of a file and says which encoder it is; loads nothing.
   *
   * @throws {ModelFormatError} `VISION_FAMILY_UNKNOWN`, `TENSOR_MISSING`, `TENSOR_INVALID`; what `readModelHeader` throws.
   */
  async open(path: string, options: { signal?: AbortSignal } = {}): Promise<VisionModel> {
    const known = this.#opened.get(path);
    if (known !== undefined && known.stamp === (await stampKeyOrNone(path))) return known;
    const { model } = resolveVisionModel(await readModelHeader(path, options));
    for (const [oldest] of this.#opened) {
      if (this.#opened.size < MAX_OPENED) break;
      this.#opened.delete(oldest);
    }
    this.#opened.set(path, model);
    return model;
  }

  /**
   * Encodes images.
   *
   * @throws {InvalidRequestError} for input of another shape; {ModelFormatError} `OUTPUT_UNAVAILABLE`; {BridgeError}
   *   `QUANTIZATION_REFUSED`, `DEVICE_UNAVAILABLE`, `MEMORY_BUDGET_EXCEEDED`; what the runtime throws.
   */
  async encode(opened: VisionModel, input: VisionInput, options: EncodeOptions = {}): Promise<VisionOutput> {
    const tiling = readTiling(options.tiles, options.tilesRatio);
    if (tiling !== undefined) return this.#encodeInTiles(opened, input, options, tiling);
    return this.#admit(async () => {
      const model = await this.#asItIsNow(opened);
      const run = await this.#planRun(model, options);
      if (run.cached === undefined) this.#load(model, run, options);
      const prepared = await this.#prepare(model, input, options);
      return (await this.#encodePrepared(model, prepared, run, options)).output;
    });
  }

  async #encodeInTiles(
    model: VisionModel,
    input: VisionInput,
    options: EncodeOptions,
    tiling: Tiling,
  ): Promise<VisionOutput> {
    if ('pixelValues' in input) throw new InvalidRequestError('Tiles are cut from pictures, not from pixel values.');
    checkInput(input, model, 'none');
    const canMerge = model.prefixTokens === 0 || formsSquare(embeddingDim(model));
    const outputs = options.outputs ?? defaultOutputs(model).filter((output) => output !== 'image_embeds' || canMerge);
    requireOutputs(model, outputs);
    const plain = { ...options, outputs, tiles: undefined, tilesRatio: undefined };
    return encodeInTiles((images) => this.encode(model, images, plain), model, input, tiling);
  }

  /**
   * Encodes an image in any of its forms; all frames of an animated file. A file that was encoded before is not even
   * decoded.
   *
   * @param options.maxPictures More frames than this are refused before any is encoded.
   * @throws what `encode` throws; {InvalidRequestError} for values that are no image; `IMAGE_INVALID`, `IMAGE_TOO_LARGE`.
   */
  async encodeImage(
    opened: VisionModel,
    image: ImageInput,
    { maxPictures = Infinity, ...options }: EncodeOptions & { readonly maxPictures?: number } = {},
  ): Promise<EncodedPictures> {
    const bytes = await encodedBytesOf(image);
    if (bytes === undefined || readTiling(options.tiles, options.tilesRatio) !== undefined) {
      const pixels = await readImageInput(image, options);
      const pictures = checkCount(pixels.shape[0] ?? 0, maxPictures);
      return { output: await this.encode(opened, pixels, options), pictures };
    }
    return this.#admit(async () => {
      const model = await this.#asItIsNow(opened);
      const run = await this.#planRun(model, options);
      const file = await recallFile(model, bytes, run, options);
      const kept = file.known === undefined ? undefined : recall(file.known, run);
      if (kept !== undefined) {
        return { output: joinFeatures(kept, run.outputs), pictures: checkCount(kept.length, maxPictures) };
      }
      if (file.known === undefined) this.#load(model, run, options);
      const pixels = await readImageInput(encodedImage(image, bytes), options);
      const pictures = checkCount(pixels.shape[0] ?? 0, maxPictures);
      const prepared = await this.#prepareFile(model, pixels, file.keep, options);
      return { output: (await this.#encodePrepared(model, prepared, run, options)).output, pictures };
    });
  }

  /**
   * Looks at pictures without encoding them, and names what encoding would give. A file that was seen before is not even
   * decoded.
   *
   * @throws what `encode` and `encodeImage` throw before a run
   */
  async name(
    opened: VisionModel,
    image: ImageInput | VisionInput,
    { output, ...rest }: NameOptions,
  ): Promise<NamedPictures> {
    const options: EncodeOptions = { ...rest, outputs: [output] };
    const encoded = 'kind' in image ? image : undefined;
    const bytes = encoded === undefined ? undefined : await encodedBytesOf(encoded);
    return this.#admit(async () => {
      const model = await this.#asItIsNow(opened);
      const run = await this.#planRun(model, options);
      if (encoded === undefined || bytes === undefined) {
        if (run.cached === undefined) this.#load(model, run, options);
        const pixels = 'kind' in image ? await readImageInput(image, options) : image;
        const prepared = await this.#prepare(model, pixels, options);
        return new NamedPictures(model, run, prepared.hashes, { prepared });
      }
      const source = encodedImage(encoded, bytes);
      const { known, keep } = await recallFile(model, bytes, run, options);
      const named = known === undefined ? undefined : new NamedPictures(model, run, known, { image: source });
      if (named?.isKept() === true) return named;
      if (known === undefined) this.#load(model, run, options);
      const pixels = await readImageInput(source, options);
      const prepared = await this.#prepareFile(model, pixels, keep, options);
      return new NamedPictures(model, run, prepared.hashes, { prepared });
    });
  }

  /**
   * Features of named pictures, those of one shape in one call: out of the store, or made.
   *
   * @param list All named with the same output.
   * @throws what `encode` throws
   */
  async encodeNamed(
    list: readonly NamedPictures[],
    options: Pick<EncodeOptions, 'signal' | 'onProgress'> = {},
  ): Promise<NamedFeatures[]> {
    return this.#admit(async () => {
      const ready: { readonly named: NamedPictures; readonly prepared: Prepared }[] = [];
      for (const named of list) {
        const { model, source } = named;
        const prepared =
          'prepared' in source
            ? source.prepared
            : await this.#prepare(model, await readImageInput(source.image, options), options);
        ready.push({ named, prepared });
      }
      const found = new Map<NamedPictures, NamedFeatures>();
      for (const group of groupPictures(ready)) {
        const { model, run } = group.first;
        const { output, isCurrent } = await this.#encodePrepared(model, group.prepared, run, options);
        const features = output[OUTPUT_FIELDS[run.outputs[0] ?? 'image_embeds']];
        if (features === undefined) throw new BridgeError('INTERNAL', 'the encoder gave no features');
        for (const { named, first, count, isSame } of group.members) {
          const own = viewRows(features, first, count);
          found.set(named, { features: own, names: isCurrent && isSame ? named.names : undefined });
        }
      }
      return list.flatMap((named) => found.get(named) ?? []);
    });
  }

  async #prepareFile(
    model: VisionModel,
    pixels: F32Tensor | U8Tensor,
    keep: KnownFile['keep'],
    options: EncodeOptions,
  ): Promise<Prepared> {
    const prepared = await this.#prepare(model, pixels, options, memoryOf(pixels));
    if (keep !== undefined) this.#keep(keep(prepared.hashes));
    return prepared;
  }

  /** Refuses what would only wait: pictures take memory while they do. */
  async #admit<T>(work: () => Promise<T>): Promise<T> {
    const { maxPending } = this.#options;
    if (this.#pending >= maxPending) {
      throw new BridgeError('BUSY', `${this.#pending} encodes are waiting already; send this one again later.`, {
        details: { pending: this.#pending },
      });
    }
    this.#pending += 1;
    try {
      return await work();
    } finally {
      this.#pending -= 1;
    }
  }

  /** A file that was replaced since it was opened is read anew. */
  async #asItIsNow(opened: VisionModel): Promise<VisionModel> {
    return (await stampKeyOrNone(opened.path)) === opened.stamp ? opened : this.open(opened.path);
  }

  async #planRun(model: VisionModel, options: EncodeOptions): Promise<Run> {
    const outputs = options.outputs ?? defaultOutputs(model);
    requireOutputs(model, outputs);
    const { precision = 'comfy', device = this.#options.device ?? 'cpu' } = options;
    const intermediate = layerOf(options.intermediateOutput, model.config.layers);
    const { identity, cache } = await (this.#memory ??= this.#openMemory());
    const weights = identity.known(model);
    if (weights === undefined && cache !== undefined) this.#keep(identity.find(model));
    const quantized =
      precision === 'int8'
        ? await this.#options.quantizer.ensure(model, weights ?? (await identity.find(model)), options)
        : undefined;
    const source = (where: string): FeatureSource => ({
      weights: weights ?? '',
      precision: quantized === undefined ? precision : `int8 ${quantized.scheme}`,
      ...(intermediate === undefined ? {} : { intermediate }),
      device: where,
    });
    return {
      precision,
      device,
      outputs,
      ...(intermediate === undefined ? {} : { intermediate }),
      ...(quantized === undefined ? {} : { quantized }),
      ...(cache === undefined || weights === undefined ? {} : { cached: { cache, source } }),
    };
  }

  async #openMemory(): Promise<{ identity: WeightsIdentity; cache: FeatureCache | undefined }> {
    const { fileHashes, features } = await this.#options.memory();
    return {
      identity: new WeightsIdentity(fileHashes, this.#options.threads),
      cache: features === undefined ? undefined : new FeatureCache(features),
    };
  }

  async #prepare(
    model: VisionModel,
    input: VisionInput,
    { crop = 'center', signal }: EncodeOptions,
    moved: readonly ArrayBuffer[] = [],
  ): Promise<Prepared> {
    throwIfAborted(signal);
    const task = checkInput(input, model, crop);
    if (isSmall(task)) return preparePictures(task);
    return this.#options.threads.run<Prepared>(PREPARE_TASK, task, { signal, moved });
  }

  async #encodePrepared(
    model: VisionModel,
    { pictures, hashes }: Prepared,
    run: Run,
    { signal, onProgress, isReadOnly = false, lease }: EncodeOptions,
  ): Promise<{ readonly output: VisionOutput; readonly isCurrent: boolean }> {
    const found = hashes.map((hash) => recallOne(hash, run));
    const missing = [...found.keys()].filter((i) => found[i] === undefined);
    const total = hashes.length;
    const known = total - missing.length;
    // A file that changed meanwhile was run as it is now: its features are not those of the weights that were hashed.
    let isCurrent = true;
    if (known > 0) onProgress?.({ stage: 'running', done: known, total });
    if (missing.length > 0) {
      const report = (progress: Progress): void => {
        onProgress?.(progress.stage === 'running' ? { ...progress, done: known + progress.done, total } : progress);
      };
      const fresh = await this.#run(model, pickRows(pictures, missing), run, { signal, onProgress: report, lease });
      missing.forEach((index, i) => {
        found[index] = rowOf(fresh.outputs, i);
      });
      isCurrent = fresh.stamp === model.stamp;
      if (isCurrent) {
        const names = missing.map((index) => hashes[index] ?? '');
        const keep = async (): Promise<void> => {
          if (isReadOnly) await sleep(KEPT_AFTER_MS);
          await remember(run, fresh, names);
        };
        this.#keep(lease === undefined ? keep() : lease.use(keep));
      }
      if (missing.length === hashes.length) return { output: toVisionOutput(fresh.outputs), isCurrent };
    }
    const features = found.filter((one) => one !== undefined);
    return { output: joinFeatures(features, run.outputs), isCurrent };
  }

  #modelRequest(model: VisionModel, { precision, device, outputs, quantized, intermediate }: Run): ModelRequest {
    const { memoryBudgetBytes } = this.#options;
    return {
      path: model.path,
      precision,
      device,
      keepsAllStates: outputs.includes('all_hidden_states'),
      ...(quantized === undefined ? {} : { quantized: quantized.path }),
      ...(intermediate === undefined ? {} : { intermediate }),
      ...(memoryBudgetBytes === undefined ? {} : { memoryBudgetBytes }),
    };
  }

  /** The inference process starts, and reads the model, while pictures are decoded and resampled here. */
  #load(model: VisionModel, run: Run, { onProgress }: EncodeOptions): void {
    this.#options.inference.prepare(LOAD_OPERATION, this.#modelRequest(model, run), this.#reporting(onProgress));
  }

  async #run(
    model: VisionModel,
    pictures: U8Tensor | F32Tensor,
    run: Run,
    { signal, onProgress, lease }: EncodeOptions,
  ): Promise<EncodeReply> {
    const { inference } = this.#options;
    const request: EncodeRequest = { ...this.#modelRequest(model, run), outputs: run.outputs, pictures };
    const reply = await inference.call(ENCODE_OPERATION, request, {
      signal,
      onProgress: this.#reporting(onProgress),
      lease,
    });
    return reply as EncodeReply;
  }

  /** Tells the caller, and the log once where `auto` runs on the CPU for want of another device. */
  #reporting(onProgress: EncodeOptions['onProgress']): (progress: Progress) => void {
    return (progress) => {
      onProgress?.(progress);
      if (progress.stage !== 'fallback' || this.#hasWarnedOfFallback) return;
      this.#hasWarnedOfFallback = true;
      this.#options.logger.warn({ reason: progress.reason }, 'the device auto is the CPU here');
    };
  }

  /** Keeping is for later: its failure is not the caller's. */
  #keep(work: Promise<unknown>): void {
    work.catch((error: unknown) => {
      this.#options.logger.warn({ err: error }, 'features of this encode are not kept');
    });
  }
}
