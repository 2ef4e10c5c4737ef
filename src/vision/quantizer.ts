/**
 * The int8 forms of encoders, made at first use and kept on disk by the hash of their weights.
 *
 * Making one takes a process of its own, so that the others are served meanwhile; it ends when the work is done.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { abortable } from '../common/abort.js';
import { BridgeError } from '../common/errors.js';
import { SingleFlight } from '../common/single-flight.js';
import type { Logger } from '../common/logger.js';
import { stampKeyOrNone } from '../formats/index.js';
import type { InferenceProcess, Progress } from '../runtime/index.js';
import type { VisionModel } from './model.js';
import { QUANTIZE_OPERATION, type QuantizeReply, type QuantizeRequest } from './quantization/quantize.js';
import { QUANTIZATION_VERSION, readQuantizedFile, type QuantizedFile } from './quantization/quantized-file.js';

export interface QuantizedModel extends QuantizedFile {
  /** Real path of the int8 weights. */
  readonly path: string;
}

interface QuantizerOptions {
  /** A folder of ours; made if missing. */
  readonly directory: string;
  /** A process of its own, which ends soon after its work. */
  readonly process: InferenceProcess;
  readonly logger: Logger;
}

type Listener = (progress: Progress) => void;

export class Quantizer {
  readonly #options: QuantizerOptions;
  readonly #running = new SingleFlight<string, QuantizedModel>();
  /** Refusals are as lasting as the weights. */
  readonly #refused = new Map<string, BridgeError>();
  /** Files that were read before, with the state that they had then. */
  readonly #known = new Map<string, { readonly stamp: string; readonly file: QuantizedFile }>();
  readonly #listeners = new Map<string, Set<Listener>>();

  constructor(options: QuantizerOptions) {
    this.#options = options;
  }

  /**
   * The int8 form of these weights, made where need be; many may ask at once, and one who gives up does not stop it for
   * the others: the work is kept.
   *
   * @throws {BridgeError} `QUANTIZATION_REFUSED` with the figures; `CANCELLED`; what reading the weights throws.
   */
  async ensure(
    model: VisionModel,
    sha256: string,
    { signal, onProgress }: { signal?: AbortSignal | undefined; onProgress?: Listener | undefined },
  ): Promise<QuantizedModel> {
    const listeners = this.#listeners.get(sha256) ?? new Set();
    this.#listeners.set(sha256, listeners);
    if (onProgress !== undefined) listeners.add(onProgress);
    try {
      return await abortable(
        this.#running.run(sha256, () => this.#make(model, sha256)),
        signal,
      );
    } finally {
      if (onProgress !== undefined) listeners.delete(onProgress);
    }
  }

  async #make(model: VisionModel, sha256: string): Promise<QuantizedModel> {
    const refused = this.#refused.get(sha256);
    if (refused !== undefined) throw refused;
    const { directory, logger } = this.#options;
    const path = join(directory, `${sha256}-v${QUANTIZATION_VERSION}.safetensors`);
    const kept = await this.#find(path);
    if (kept?.sha256 === sha256) return { ...kept, path };
    await mkdir(directory, { recursive: true });
    logger.info({ model: model.path }, 'quantising to int8; this is done once');
    const request: QuantizeRequest = { path: model.path, target: path, sha256 };
    const begin = performance.now();
    const made = await this.#quantize(request);
    const seconds = Math.round((performance.now() - begin) / 1000);
    logger.info({ model: model.path, scheme: made.scheme, cosine: made.cosine, seconds }, 'quantised to int8');
    return { ...made, path };
  }

  /** What the file says of itself, which is asked for with every encode. */
  async #find(path: string): Promise<QuantizedFile | undefined> {
    const known = this.#known.get(path);
    if (known !== undefined && known.stamp === (await stampKeyOrNone(path))) return known.file;
    const stamp = await stampKeyOrNone(path);
    const file = await readQuantizedFile(path);
    if (file === undefined || stamp === undefined) this.#known.delete(path);
    else this.#known.set(path, { stamp, file });
    return file;
  }

  async #quantize(request: QuantizeRequest): Promise<QuantizeReply> {
    try {
      const reply = await this.#options.process.call(QUANTIZE_OPERATION, request, {
        onProgress: (progress) => {
          for (const listener of this.#listeners.get(request.sha256) ?? []) listener(progress);
        },
      });
      return reply as QuantizeReply;
    } catch (error) {
      if (error instanceof BridgeError && error.code === 'QUANTIZATION_REFUSED')
        this.#refused.set(request.sha256, error);
      throw error;
    }
  }
}
