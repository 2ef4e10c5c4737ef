/**
 * Features of pictures, kept by content.
 *
 * A key is made of all that a result depends on: the picture as the encoder sees it, the weights, the precision, the device,
 * the output. Two files of one picture, or two names of one model, share their features. The bytes of an image file are
 * a second key, which saves decoding it.
 */
import { createHash } from 'node:crypto';
import { BufferPool, type BufferLease } from '../runtime/index.js';
import { f32Tensor, type F32Tensor, type Shape } from '../tensor/tensor.js';
import type { OutputName } from './families/index.js';

/** What keeps the bytes; reads are synchronous. */
export interface FeatureMemory {
  get(key: string): Uint8Array | undefined;
  /** Whether it is there; counts as a use, and reads nothing of the value. */
  has(key: string): boolean;
  /** The value is the caller's again when it is kept. */
  put(key: string, value: Uint8Array): Promise<void>;
}

/** Everything but the picture. */
export interface FeatureSource {
  /** SHA-256 of the weights. */
  readonly weights: string;
  /** Precision, and scheme where there are several. */
  readonly precision: string;
  readonly device: string;
  /** The layer of the penultimate hidden states, where it is not the last but one. */
  readonly intermediate?: number;
}

/** Raised when the same inputs give other numbers than before. */
const ENGINE_VERSION = 1;
/** All hidden states of a SigLIP fill this many times over; they are computed again instead. */
const MAX_VALUE_BYTES = 64 * 2 ** 20;
const RANK_BYTES = 4;

export class FeatureCache {
  readonly #memory: FeatureMemory;
  /** For values on their way to the store. */
  readonly #buffers = new BufferPool();

  constructor(memory: FeatureMemory) {
    this.#memory = memory;
  }

  /** Features of one picture, `[…]` without the batch; undefined where one of the outputs is not kept. */
  get(source: FeatureSource, picture: string, outputs: readonly OutputName[]): Map<OutputName, F32Tensor> | undefined {
    const found = new Map<OutputName, F32Tensor>();
    for (const output of outputs) {
      const bytes = this.#memory.get(featureKey(source, picture, output));
      const tensor = bytes === undefined ? undefined : unpack(bytes);
      if (tensor === undefined) return undefined;
      found.set(output, tensor);
    }
    return found;
  }

  /** Names what an encoder gives for a picture: equal names, equal features. */
  nameOf(source: FeatureSource, picture: string, output: OutputName): string {
    return featureKey(source, picture, output);
  }

  /** Whether features of this name are kept. */
  has(name: string): boolean {
    return this.#memory.has(name);
  }

  async put(source: FeatureSource, picture: string, output: OutputName, features: F32Tensor): Promise<void> {
    if (features.data.byteLength > MAX_VALUE_BYTES) return;
    const lease = this.#buffers.lease();
    try {
      await this.#memory.put(featureKey(source, picture, output), pack(features, lease));
    } finally {
      await lease.release();
    }
  }

  /** Names of the pictures that the bytes of an image file become under this preprocessing. */
  getPictures(file: string, preprocessing: string): string[] | undefined {
    const bytes = this.#memory.get(hashOf(['file', file, preprocessing]));
    return bytes === undefined ? undefined : Buffer.from(bytes).toString().split(' ');
  }

  async putPictures(file: string, preprocessing: string, pictures: readonly string[]): Promise<void> {
    await this.#memory.put(hashOf(['file', file, preprocessing]), Buffer.from(pictures.join(' ')));
  }
}

function featureKey(source: FeatureSource, picture: string, output: OutputName): string {
  const { weights, precision, device, intermediate } = source;
  return hashOf(['features', weights, precision, device, String(intermediate), picture, output]);
}

function hashOf(parts: readonly string[]): string {
  return createHash('sha256')
    .update([ENGINE_VERSION, ...parts].join('\n'))
    .digest('hex');
}

/** Rank and sides as u32, then the values: all little-endian, as all machines are that onnxruntime runs on. */
function pack({ shape, data }: F32Tensor, lease: BufferLease): Uint8Array {
  const head = Uint32Array.of(shape.length, ...shape);
  const sizeBytes = head.byteLength + data.byteLength;
  const bytes = new Uint8Array(lease.take(sizeBytes), 0, sizeBytes);
  bytes.set(new Uint8Array(head.buffer));
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), head.byteLength);
  return bytes;
}

function unpack(bytes: Uint8Array): F32Tensor | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const rank = view.getUint32(0, true);
  const shape: Shape = Array.from({ length: rank }, (_none, axis) => view.getUint32(RANK_BYTES * (axis + 1), true));
  const begin = RANK_BYTES * (rank + 1);
  const aligned = (bytes.byteOffset + begin) % RANK_BYTES === 0 ? bytes : Uint8Array.from(bytes);
  const length = (bytes.byteLength - begin) / RANK_BYTES;
  return f32Tensor(shape, new Float32Array(aligned.buffer, aligned.byteOffset + begin, length));
}
