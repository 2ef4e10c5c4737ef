/**
 * onnxruntime sessions over weights that stay in the user's file. Runs in the inference process only.
 *
 * The graph is handed over as bytes; its initializers name ranges of a file in `weightsFolder`. onnxruntime refuses
 * absolute names, `..` and links that leave the folder, so the caller resolves links first.
 */
import type { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node';
import { BridgeError, messageOf } from '../common/errors.js';
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import { physicalCores } from './cpu-cores.js';
import {
  candidateDevices,
  deviceUnavailable,
  graphOptions,
  isInThisBuild,
  loadOnnxruntime,
  type Device,
  type DeviceName,
} from './execution-providers.js';

export interface SessionOptions {
  /** Real path of the folder in which the graph's external data lies. */
  readonly weightsFolder: string;
  /** Default `cpu`. */
  readonly device?: Device;
  /** The graph has 8-bit matrix products. */
  readonly isInt8?: boolean;
  /**
   * Weights are arranged for the CPU's matrix products at every run instead of once: no second copy of them is held, the
   * session is there in a tenth of the time, and a run takes longer (CLIP-H: int8 a quarter, fp32 a sixth).
   */
  readonly isUnpacked?: boolean;
  /**
   * The graph is run node by node as it was built, where that is on the CPU. Else onnxruntime fuses operators, and computes
   * once what does not depend on inputs: of fp16 weights it holds fp32 copies then, twice the size of the file, which take
   * seconds to make.
   */
  readonly isAsBuilt?: boolean;
  /** Told once, where `auto` found no device but the CPU, why each that this build has cannot be used. */
  readonly onFallback?: (reason: string) => void;
}

/** A graph, or what builds it for a device that has, or lacks, fused attention. */
export type GraphSource = Uint8Array | ((target: { readonly fusesAttention: boolean }) => Uint8Array);

export class Session implements AsyncDisposable {
  /** Where it runs. */
  readonly device: DeviceName;
  readonly #session: InferenceSession;
  readonly #tensor: typeof OrtTensor;

  private constructor(session: InferenceSession, tensor: typeof OrtTensor, device: DeviceName) {
    this.#session = session;
    this.#tensor = tensor;
    this.device = device;
  }

  /**
   * Loads a graph and its weights; takes seconds for a large model.
   *
   * @throws {BridgeError} `RUNTIME_FAILED`; `DEVICE_UNAVAILABLE` for a device that was named and does not work.
   */
  static async create(graph: GraphSource, options: SessionOptions): Promise<Session> {
    const { device: wanted = 'cpu', isInt8 = false, onFallback } = options;
    const candidates = candidateDevices(wanted, { needsInt8: isInt8 });
    const reasons: string[] = [];
    for (const device of candidates) {
      if (device === 'cpu') break;
      const isAuto = wanted === 'auto';
      if (!(await isInThisBuild(device))) {
        if (isAuto) continue;
        throw deviceUnavailable(device, 'this build of onnxruntime-node lacks it.');
      }
      try {
        return await Session.#createOn(device, graph, options);
      } catch (error) {
        if (!isAuto) throw error;
        reasons.push(messageOf(error));
      }
    }
    if (reasons.length > 0) onFallback?.(reasons.join(' '));
    return Session.#createOn('cpu', graph, options);
  }

  static async #createOn(
    device: DeviceName,
    source: GraphSource,
    { weightsFolder, isUnpacked = false, isAsBuilt = false }: SessionOptions,
  ): Promise<Session> {
    const graph = typeof source === 'function' ? source(graphOptions(device)) : source;
    const { InferenceSession, Tensor } = await loadOnnxruntime();
    const cores = physicalCores();
    try {
      const session = await InferenceSession.create(graph, {
        executionProviders: [device],
        ...(cores === undefined ? {} : { intraOpNumThreads: cores }),
        graphOptimizationLevel: isAsBuilt && device === 'cpu' ? 'disabled' : 'all',
        logSeverityLevel: 3,
        extra: {
          session: {
            model_external_initializers_file_folder_path: weightsFolder,
            // Between runs the cores are others': threads of onnxruntime would go on looking for work for a while.
            force_spinning_stop: '1',
            ...(isUnpacked ? { disable_prepacking: '1' } : {}),
          },
        },
      });
      return new Session(session, Tensor, device);
    } catch (error) {
      if (device !== 'cpu') throw deviceUnavailable(device, reasonOf(error), error);
      throw new BridgeError('RUNTIME_FAILED', `onnxruntime did not load the model: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /**
   * Runs the graph on f32 inputs. Blocks this process.
   *
   * @returns the outputs asked for, owned by the caller.
   */
  async run(inputs: Readonly<Record<string, F32Tensor>>, outputs: readonly string[]): Promise<Map<string, F32Tensor>> {
    const feeds = Object.fromEntries(
      Object.entries(inputs).map(([name, { shape, data }]) => [name, new this.#tensor('float32', data, shape)]),
    );
    let results: InferenceSession.ReturnType;
    try {
      results = await this.#session.run(feeds, [...outputs]);
    } catch (error) {
      throw new BridgeError('RUNTIME_FAILED', `onnxruntime failed while running the model: ${messageOf(error)}`, {
        cause: error,
      });
    }
    return new Map(
      Object.entries(results).map(([name, { data, dims }]) => {
        if (!(data instanceof Float32Array)) throw new BridgeError('INTERNAL', `output ${name} is not f32`);
        return [name, f32Tensor(dims, data)];
      }),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session.release();
  }
}

/** A sentence of onnxruntime without the place in its source that comes before it. */
function reasonOf(error: unknown): string {
  const reason = messageOf(error).replace(/^\/onnxruntime_src\/.* was false\. /s, '');
  return `${reason.trim().replace(/\.$/, '')}.`;
}
