/**
 * Pictures that were looked at but not encoded: what an encoder would give for them has names.
 *
 * A name is the key of the feature store. Whoever keeps things that are made of features can keep them by these names, and
 * needs neither the features nor their hash to find them again.
 */
import type { ImageInput } from '../image/index.js';
import type { F32Tensor } from '../tensor/tensor.js';
import { joinPictures } from './join.js';
import type { VisionModel } from './model.js';
import { joinFeatures, OUTPUT_FIELDS } from './output.js';
import { recall, type Run } from './run.js';
import type { Prepared } from './thread-tasks.js';

/** Where the pictures are: as the encoder sees them, or in a file that need not be decoded as long as they are kept. */
type PictureSource = { readonly prepared: Prepared } | { readonly image: ImageInput & { readonly kind: 'encoded' } };

export interface NamedFeatures {
  /** f32 `[B, …]`, owned by the caller. */
  readonly features: F32Tensor;
  /** Absent where they are not those that the pictures were named for: the weights were replaced meanwhile. */
  readonly names: readonly string[] | undefined;
}

export class NamedPictures {
  readonly model: VisionModel;
  readonly run: Run;
  readonly source: PictureSource;
  readonly #hashes: readonly string[];
  /**
   * A name for every picture's features: equal names, equal features, in every process. Absent where features are not
   * kept, while the weights are being read to learn which they are, and on the device `auto`.
   */
  readonly names: readonly string[] | undefined;

  /** Made by `VisionEngine.name`. */
  constructor(model: VisionModel, run: Run, hashes: readonly string[], source: PictureSource) {
    this.model = model;
    this.run = run;
    this.source = source;
    this.#hashes = hashes;
    const { cached, device, outputs } = run;
    const [output] = outputs;
    if (cached === undefined || device === 'auto' || output === undefined) return;
    const origin = cached.source(device);
    this.names = hashes.map((hash) => cached.cache.nameOf(origin, hash, output));
  }

  /** Pictures: an animated file has one for each frame. */
  get count(): number {
    return this.#hashes.length;
  }

  /** Whether the features of all are in the store. */
  isKept(): boolean {
    const { cached } = this.run;
    return this.names?.every((name) => cached?.cache.has(name) === true) === true;
  }

  /** f32 `[B, …]` out of the store, owned by the caller; undefined where one is not there. */
  recall(): F32Tensor | undefined {
    const kept = recall(this.#hashes, this.run);
    const [output] = this.run.outputs;
    if (kept === undefined || output === undefined) return undefined;
    return joinFeatures(kept, [output])[OUTPUT_FIELDS[output]];
  }

  /** Whether these are the pictures that were named. A newer decoder may see others in the same file. */
  isOf({ hashes }: Prepared): boolean {
    return hashes.length === this.count && hashes.every((hash, i) => hash === this.#hashes[i]);
  }
}

interface PictureGroup {
  readonly first: NamedPictures;
  readonly prepared: Prepared;
  readonly members: readonly {
    readonly named: NamedPictures;
    /** Rows of the batch that are its own. */
    readonly first: number;
    readonly count: number;
    /** Whether these are the pictures that were named. */
    readonly isSame: boolean;
  }[];
}

/** Pictures of one shape, for one state of a model, as one batch each. */
export function groupPictures(
  list: readonly { readonly named: NamedPictures; readonly prepared: Prepared }[],
): PictureGroup[] {
  const groups = new Map<string, (typeof list)[number][]>();
  for (const entry of list) {
    const { dtype, shape } = entry.prepared.pictures;
    const key = `${entry.named.model.stamp} ${dtype} ${shape.slice(1).join('x')}`;
    groups.set(key, [...(groups.get(key) ?? []), entry]);
  }
  return [...groups.values()].flatMap((entries) => {
    const [head] = entries;
    if (head === undefined) return [];
    let row = 0;
    const members = entries.map(({ named, prepared }) => {
      const first = row;
      const count = prepared.hashes.length;
      row += count;
      return { named, first, count, isSame: named.isOf(prepared) };
    });
    const prepared = joinPrepared(entries.map((entry) => entry.prepared));
    return [{ first: head.named, prepared, members }];
  });
}

function joinPrepared(list: readonly Prepared[]): Prepared {
  return {
    pictures: joinPictures(list.map(({ pictures }) => pictures)),
    hashes: list.flatMap(({ hashes }) => hashes),
  };
}
