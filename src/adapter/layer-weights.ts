/**
 * The matrices of an adapter's attention layers, as a safetensors document that is read from the user's file piece by
 * piece: all of an SDXL adapter's are hundreds of megabytes.
 */
import { ModelFormatError } from '../common/errors.js';
import { readModelHeader, readTensor } from '../formats/index.js';
import { tensorBytes } from '../tensor/tensor.js';
import { resolveAdapter } from './model.js';

export interface LayerWeights {
  readonly sizeBytes: number;
  /** The document's bytes, in order. */
  readonly chunks: AsyncIterable<Uint8Array>;
}

/**
 * `N.to_k_ip.weight` and `N.to_v_ip.weight`, `[width of the block, C]`, as stored.
 *
 * @throws {ModelFormatError} `OUTPUT_UNAVAILABLE` for a layer that the adapter does not have; what opening throws.
 */
export async function readLayerWeights(path: string, wanted: readonly number[] | 'all'): Promise<LayerWeights> {
  const header = await readModelHeader(path);
  const { model, keys } = resolveAdapter(header);
  const layers = wanted === 'all' ? model.layers : wanted;
  const missing = layers.find((layer) => !model.layers.includes(layer));
  if (missing !== undefined) {
    throw new ModelFormatError(
      'OUTPUT_UNAVAILABLE',
      `${model.label} has no layer ${missing}; it has ${model.layers.join(', ')}.`,
      { details: { layer: missing, layers: model.layers } },
    );
  }
  const names = layers.flatMap((layer) => [`${layer}.to_k_ip.weight`, `${layer}.to_v_ip.weight`]);
  const infos = names.flatMap((name) => {
    const info = keys.attention.get(name);
    return info === undefined ? [] : [{ name, info }];
  });
  const entries: Record<string, unknown> = {};
  let end = 0;
  for (const { name, info } of infos) {
    entries[name] = { dtype: info.dtype, shape: info.shape, data_offsets: [end, end + info.sizeBytes] };
    end += info.sizeBytes;
  }
  const json = JSON.stringify(entries);
  const head = Buffer.from(json.padEnd(Math.ceil(json.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(head.length));
  return {
    sizeBytes: 8 + head.length + end,
    chunks: (async function* () {
      yield Buffer.concat([length, head]);
      for (const { info } of infos) yield tensorBytes(await readTensor(header, info.name));
    })(),
  };
}
