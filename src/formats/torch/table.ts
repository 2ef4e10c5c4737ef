/** The table of tensors in what a pickle describes, found as ComfyUI finds it. */
import { PickleProblem } from '../pickle/problem.js';
import {
  describeValue,
  OpaqueValue,
  PickledTensor,
  PickleDict,
  PickleList,
  PickleTuple,
  type PickleValue,
  type TensorPlace,
} from '../pickle/values.js';

export interface TensorTableEntries {
  /** In the pickle's order; tables in the table join their names with a dot. */
  readonly tensors: ReadonlyMap<string, TensorPlace>;
  /** Texts, numbers and truth values beside the tensors, as text. */
  readonly metadata: ReadonlyMap<string, string>;
}

const MAX_DEPTH = 16;
const MAX_TENSORS = 1_000_000;
const MAX_NAME_LENGTH = 4096;
const MAX_METADATA = 10_000;
const MAX_METADATA_DEPTH = 3;

/**
 * The tensors of a checkpoint: those of its `state_dict`, or of its only table, or all.
 *
 * Source: ComfyUI, comfy/utils.py, `load_torch_file`.
 *
 * @param soleTensor Takes a file that holds one tensor and no table, and gives the tensor this name.
 * @throws {PickleProblem} when it is no table, or two tensors would have one name.
 */
export function readTable(root: PickleValue, soleTensor?: string): TensorTableEntries {
  if (root instanceof PickledTensor && soleTensor !== undefined)
    return { tensors: new Map([[soleTensor, root.place]]), metadata: new Map() };
  if (!(root instanceof PickleDict)) throw new PickleProblem(`it holds ${describeValue(root)}, not a table of tensors`);
  const inner = unwrap(root);
  if (!(inner instanceof PickleDict)) {
    throw new PickleProblem(`its state_dict is ${describeValue(inner)}, not a table of tensors`);
  }
  const tensors = new Map<string, TensorPlace>();
  const open = new Set<PickleValue>();
  collectTensors(inner, '', tensors, open, 0);
  const metadata = new Map<string, string>();
  const seen = new Set<PickleValue>([inner]);
  if (inner !== root) collectMetadata(root, '', metadata, seen, 0);
  collectMetadata(inner, '', metadata, seen, 0);
  return { tensors, metadata };
}

/** All tensors anywhere in a pickle that is not a table, for descriptions. @throws {PickleProblem} */
export function findTensors(root: PickleValue): ReadonlyMap<string, TensorPlace> {
  const tensors = new Map<string, TensorPlace>();
  collectTensors(root, '', tensors, new Set(), 0);
  return tensors;
}

function unwrap(root: PickleDict): PickleValue {
  const { entries } = root;
  if (entries.has('state_dict')) return entries.get('state_dict') ?? null;
  const [only] = entries.values();
  return entries.size === 1 && only instanceof PickleDict ? only : root;
}

function collectTensors(
  value: PickleValue,
  name: string,
  tensors: Map<string, TensorPlace>,
  open: Set<PickleValue>,
  depth: number,
): void {
  if (value instanceof PickledTensor) {
    if (tensors.has(name)) throw new PickleProblem(`it has two tensors of the name ${JSON.stringify(name)}`);
    if (tensors.size === MAX_TENSORS) throw new PickleProblem(`it has more than ${MAX_TENSORS} tensors`);
    if (name.length > MAX_NAME_LENGTH) throw new PickleProblem(`a tensor name has ${name.length} characters`);
    tensors.set(name, value.place);
    return;
  }
  const entries = entriesOf(value);
  // A table may hold itself, or the same table a thousand times a thousand times: each is gone through once.
  if (entries === undefined || open.has(value)) return;
  if (depth === MAX_DEPTH) throw new PickleProblem(`its tables are nested more than ${MAX_DEPTH} deep`);
  open.add(value);
  for (const [key, entry] of entries) {
    collectTensors(entry, name === '' ? key : `${name}.${key}`, tensors, open, depth + 1);
  }
}

function entriesOf(value: PickleValue): Iterable<readonly [string, PickleValue]> | undefined {
  if (value instanceof PickleDict) {
    return [...value.entries].map(([key, entry]) => [keyText(key), entry] as const);
  }
  if (value instanceof PickleList || value instanceof PickleTuple) return numbered(value.items);
  return value instanceof OpaqueValue ? numbered(value.children) : undefined;
}

function numbered(items: readonly PickleValue[]): (readonly [string, PickleValue])[] {
  return items.map((item, i) => [String(i), item] as const);
}

function keyText(key: PickleValue): string {
  return typeof key === 'string' || typeof key === 'number' || typeof key === 'bigint'
    ? String(key)
    : describeValue(key);
}

function collectMetadata(
  dict: PickleDict,
  prefix: string,
  metadata: Map<string, string>,
  seen: Set<PickleValue>,
  depth: number,
): void {
  for (const [key, value] of dict.entries) {
    if (typeof key !== 'string' || metadata.size >= MAX_METADATA) continue;
    const name = prefix === '' ? key : `${prefix}.${key}`;
    if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') {
      metadata.set(name, String(value));
    } else if (value instanceof PickleDict && !seen.has(value) && depth + 1 < MAX_METADATA_DEPTH) {
      seen.add(value);
      collectMetadata(value, name, metadata, seen, depth + 1);
    }
  }
}
