/**
 * Image prompt tokens of single pictures, kept by content.
 *
 * A key is made of all that tokens depend on: the features as they go into the projection, the adapter's weights, the
 * precision, the device, and FaceID's settings. Two names of one adapter, or embeds that came from a file and those that
 * were just made, share their tokens. The name of features in the feature store is a second key, which saves reading
 * them: it leads to the hash of their content.
 */
import { createHash } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { messageOf } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import { sha256Of } from '../common/sha256.js';
import { stampKeyOrNone } from '../formats/index.js';
import type { ThreadPool } from '../runtime/index.js';
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';
import { WeightsIdentity, type FeatureMemory, type HashMemory } from '../vision/index.js';
import type { IPAdapterModel } from './model.js';

/** What tokens are remembered with. */
export interface TokenMemory {
  readonly memory: () => Promise<{ readonly fileHashes: HashMemory; readonly features?: FeatureMemory }>;
  readonly threads: ThreadPool;
  readonly logger: Logger;
}

/** Tokens of one adapter under one setting. */
export interface TokenShelf {
  /** `[T, C]` of features with this hash. */
  get(features: string): F32Tensor | undefined;
  /** Keeps tokens; its failure is nobody's. */
  put(features: string, tokens: F32Tensor): void;
  /** Hash of the features of this name, where they were projected before. */
  contentOf(name: string): string | undefined;
  /** Keeps which content features of a name have; its failure is nobody's. */
  nameContent(name: string, features: string): void;
}

/** Raised when the same inputs give other numbers than before. */
const TOKENS_VERSION = 1;

export class TokenCache {
  readonly #parts: TokenMemory;
  #opened: Promise<{ identity: WeightsIdentity; features: FeatureMemory | undefined }> | undefined;

  constructor(parts: TokenMemory) {
    this.#parts = parts;
  }

  /**
   * Undefined where tokens are not kept, while the weights are still being read to learn which they are, and for a file
   * that was replaced since it was opened.
   */
  async shelf(model: IPAdapterModel, settings: readonly string[]): Promise<TokenShelf | undefined> {
    const { identity, features } = await (this.#opened ??= this.#open());
    if (features === undefined || (await stampKeyOrNone(model.path)) !== model.stamp) return undefined;
    const weights = identity.known(model);
    if (weights === undefined) {
      this.#keep(identity.find(model));
      return undefined;
    }
    const keyOf = (hash: string): string => hashOf(['tokens', TOKENS_VERSION, weights, ...settings, hash]);
    const contentKeyOf = (name: string): string => hashOf(['content', TOKENS_VERSION, name]);
    return {
      get: (hash) => unpack(features.get(keyOf(hash)), model.tokenWidth),
      put: (hash, { data }) => {
        // Tokens are the caller's, who may write into them before they are kept.
        this.#keep(features.put(keyOf(hash), new Uint8Array(data.slice().buffer)));
      },
      contentOf: (name) => {
        const hash = features.get(contentKeyOf(name));
        return hash === undefined ? undefined : Buffer.from(hash).toString();
      },
      nameContent: (name, hash) => {
        this.#keep(features.put(contentKeyOf(name), Buffer.from(hash)));
      },
    };
  }

  /** SHA-256 of an adapter's weights, read where need be; undefined for a file that was replaced since it was opened. */
  async weightsOf(model: IPAdapterModel): Promise<string | undefined> {
    const { identity } = await (this.#opened ??= this.#open());
    if ((await stampKeyOrNone(model.path)) !== model.stamp) return undefined;
    return identity.find(model);
  }

  async #open(): Promise<{ identity: WeightsIdentity; features: FeatureMemory | undefined }> {
    const { fileHashes, features } = await this.#parts.memory();
    return { identity: new WeightsIdentity(fileHashes, this.#parts.threads), features };
  }

  #keep(work: Promise<unknown>): void {
    work.catch((error: unknown) => {
      this.#parts.logger.warn({ reason: messageOf(error) }, 'image prompt tokens of this adapter are not kept');
    });
  }
}

function hashOf(parts: readonly (string | number)[]): string {
  return createHash('sha256').update(parts.join('\n')).digest('hex');
}

/** Names what goes into a projection, for every row: equal names, equal tokens. */
export async function hashRows(inputs: Readonly<Record<string, F32Tensor>>, rows: number): Promise<string[]> {
  const named = Object.entries(inputs).sort(([a], [b]) => (a < b ? -1 : 1));
  const names: string[] = [];
  for (let row = 0; row < rows; row += 1) {
    const parts: string[] = [];
    for (const [name, { shape, data }] of named) {
      const sizeBytes = data.byteLength / rows;
      const values = new Uint8Array(data.buffer, data.byteOffset + row * sizeBytes, sizeBytes);
      parts.push(`${name} ${shape.slice(1).join('x')} ${await sha256Of(values)}`);
    }
    names.push(parts.join('\n'));
    await nextTurn();
  }
  return names;
}

/** Values alone, little-endian: an adapter knows how wide its tokens are. */
function unpack(bytes: Uint8Array | undefined, width: number): F32Tensor | undefined {
  if (bytes === undefined || bytes.byteLength === 0 || bytes.byteLength % (4 * width) !== 0) return undefined;
  const values = new Float32Array(bytes.byteLength / 4);
  new Uint8Array(values.buffer).set(bytes);
  return f32Tensor([values.length / width, width], values);
}
