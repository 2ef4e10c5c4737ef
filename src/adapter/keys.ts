/**
 * Names of an adapter's tensors, whatever layout its file has.
 *
 * Every adapter has two parts: `image_proj`, the projection, and `ip_adapter`, the keys and values of the attention
 * layers. Files name tensors `image_proj.x` and `ip_adapter.y` (safetensors), hold two dictionaries of these names
 * (PyTorch; readers join the names the same way), or leave the part out altogether.
 */
import type { TensorInfo } from '../formats/index.js';

export interface AdapterKeys {
  readonly layout: 'nested' | 'flat';
  /** The projection, by names without prefix. */
  readonly projection: ReadonlyMap<string, TensorInfo>;
  /** Attention layers, by names without prefix: `1.to_k_ip.weight`. */
  readonly attention: ReadonlyMap<string, TensorInfo>;
}

const PROJECTION_PREFIX = 'image_proj.';
/** `adapter_modules` is what training scripts write. */
const ATTENTION_PREFIXES = ['ip_adapter.', 'adapter_modules.'];
const ATTENTION_NAME = /^\d+\.to_(k_ip|v_ip|q_lora|k_lora|v_lora|out_lora)\./;

/** Sorts tensors into the two parts. Names with other prefixes are no part of an adapter and are left out. */
export function sortKeys(tensors: ReadonlyMap<string, TensorInfo>): AdapterKeys {
  const projection = new Map<string, TensorInfo>();
  const attention = new Map<string, TensorInfo>();
  for (const info of tensors.values()) {
    const prefix = ATTENTION_PREFIXES.find((candidate) => info.name.startsWith(candidate));
    if (info.name.startsWith(PROJECTION_PREFIX)) projection.set(info.name.slice(PROJECTION_PREFIX.length), info);
    else if (prefix !== undefined) attention.set(info.name.slice(prefix.length), info);
  }
  if (projection.size > 0 || attention.size > 0) return { layout: 'nested', projection, attention };
  for (const info of tensors.values()) (ATTENTION_NAME.test(info.name) ? attention : projection).set(info.name, info);
  return { layout: 'flat', projection, attention };
}

/** Numbers of the layers that have keys or values, in order: 1, 3, 5, … */
export function layerNumbers(attention: ReadonlyMap<string, TensorInfo>): number[] {
  const numbers = [...attention.keys()].flatMap((name) => {
    const match = /^(\d{1,6})\.to_[kv]_ip\.weight$/.exec(name);
    return match === null ? [] : [Number(match[1])];
  });
  return [...new Set(numbers)].sort((a, b) => a - b);
}
