/** How a model is run, and what is kept of that: features are looked for before a run, and remembered after it. */
import type { OutputName } from './families/index.js';
import type { FeatureCache, FeatureSource } from './feature-cache.js';
import type { EncodeReply } from './operation.js';
import { rowOf, type Features } from './output.js';
import type { Device } from '../runtime/index.js';
import type { QuantizedModel } from './quantizer.js';
import type { Precision } from './weight-values.js';

/** How a model is run: all that features depend on but the picture. */
export interface Run {
  readonly precision: Precision;
  readonly device: Device;
  readonly outputs: readonly OutputName[];
  /** Where it is not the last but one. */
  readonly intermediate?: number;
  /** With int8 only. */
  readonly quantized?: QuantizedModel;
  /** Absent where features are not kept, or the weights are not yet known. */
  readonly cached?: { readonly cache: FeatureCache; readonly source: (device: string) => FeatureSource };
}

/** Devices whose features are looked for. Which one `auto` leads to shows only when a model is loaded. */
export function recallOne(hash: string, { cached, outputs, device }: Run): Features | undefined {
  if (cached === undefined || device === 'auto') return undefined;
  return cached.cache.get(cached.source(device), hash, outputs);
}

/** All pictures of a file, or undefined where one is not kept. */
export function recall(hashes: readonly string[], run: Run): Features[] | undefined {
  const found = hashes.map((hash) => recallOne(hash, run)).filter((features) => features !== undefined);
  return found.length === hashes.length ? found : undefined;
}

export async function remember(
  { cached }: Run,
  { device, outputs }: EncodeReply,
  hashes: readonly string[],
): Promise<void> {
  if (cached === undefined) return;
  const puts = hashes.flatMap((hash, i) =>
    [...rowOf(outputs, i)].map(([output, features]) => cached.cache.put(cached.source(device), hash, output, features)),
  );
  await Promise.all(puts);
}
