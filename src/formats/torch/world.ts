/**
 * The few things that a pickle of tensors may ask for, made as data: storages, tensors, tables.
 *
 * Whatever else it asks for becomes an opaque value; whether that is accepted is the reader's decision.
 *
 * Source: torch/_utils.py and torch/serialization.py, arguments of the `_rebuild_…` functions and of persistent ids.
 */
import { storageName } from '../pickle/imports.js';
import type { PickleWorld } from '../pickle/machine.js';
import { PickleProblem } from '../pickle/problem.js';
import {
  describeValue,
  ImportedName,
  OpaqueValue,
  PickledStorage,
  PickledTensor,
  PickleDict,
  PickleList,
  PickleTuple,
  type PickleValue,
  type TensorPlace,
} from '../pickle/values.js';
import { DTYPE_BYTES, STORAGE_DTYPES, TORCH_DTYPES } from './dtypes.js';

const MAX_RANK = 64; // torch's own limit
const UTILS = 'torch._utils.';

/** @param storages Told of every storage, by its key. */
export function createTorchWorld(storages: Map<string, PickledStorage | OpaqueValue>): PickleWorld {
  return {
    make: makeValue,
    persistent(id) {
      const { key, storage } = readStorage(id);
      const known = storages.get(key);
      // Tensors are checked against what their own storage claims, and the data is found once for every key.
      const isOther = known instanceof PickledStorage && storage instanceof PickledStorage;
      if (isOther && known.sizeBytes !== storage.sizeBytes) {
        throw new PickleProblem(`it describes the storage ${JSON.stringify(key)} twice, in different sizes`);
      }
      storages.set(key, storage);
      return storage;
    },
  };
}

function makeValue(callable: PickleValue, args: readonly PickleValue[]): PickleValue {
  if (!(callable instanceof ImportedName)) return new OpaqueValue(describeValue(callable), [callable, ...args]);
  const builder = Object.hasOwn(BUILDERS, callable.name) ? BUILDERS[callable.name] : undefined;
  return builder?.(args) ?? new OpaqueValue(callable.name, [...args]);
}

/** What harmless names give for their arguments; undefined where an opaque value does. */
const BUILDERS: Readonly<Record<string, (args: readonly PickleValue[]) => PickleValue | undefined>> = {
  'collections.OrderedDict': (args) => makeDict(args[0]),
  'torch.Size': ([sizes]) => sizes,
  'builtins.set': ([items]) => items ?? new PickleList(),
  '__builtin__.set': ([items]) => items ?? new PickleList(),
  [`${UTILS}_rebuild_tensor`]: ([storage, offset, size, strides]) => makeTensor(storage, offset, size, strides),
  [`${UTILS}_rebuild_tensor_v2`]: ([storage, offset, size, strides]) => makeTensor(storage, offset, size, strides),
  [`${UTILS}_rebuild_tensor_v3`]: ([storage, offset, size, strides, , , dtype]) =>
    makeTensor(storage, offset, size, strides, dtype),
  [`${UTILS}_rebuild_parameter`]: ([data]) => data,
  [`${UTILS}_rebuild_parameter_with_state`]: ([data]) => data,
  'torch.nn.parameter.Parameter': ([data]) => data,
  'torch._tensor._rebuild_from_type_v2': ([builder, , args]) => {
    if (builder === undefined || !(args instanceof PickleTuple)) return undefined;
    return makeValue(builder, args.items);
  },
};

function makeDict(pairs: PickleValue | undefined): PickleDict {
  const dict = new PickleDict();
  const items = pairs instanceof PickleList || pairs instanceof PickleTuple ? pairs.items : [];
  for (const pair of items) {
    if (!(pair instanceof PickleTuple || pair instanceof PickleList) || pair.items.length !== 2) {
      throw new PickleProblem('it fills a table from something that is no list of pairs');
    }
    dict.entries.set(pair.items[0] ?? null, pair.items[1] ?? null);
  }
  return dict;
}

/** `('storage', class, key, device, elements[, view])`, the view being `(key, offset, elements)` or nothing. */
function readStorage(id: PickleValue): { key: string; storage: PickledStorage | OpaqueValue } {
  if (!(id instanceof PickleTuple) || id.items[0] !== 'storage') {
    throw new PickleProblem('it refers to something that is no storage of a tensor');
  }
  const [, type, keyValue, , elements, view] = id.items;
  if (!(type instanceof ImportedName) || !isCount(elements)) {
    throw new PickleProblem('it describes a storage without a class or a size');
  }
  const key = typeof keyValue === 'number' ? String(keyValue) : keyValue;
  if (typeof key !== 'string') throw new PickleProblem('it describes a storage without a key');
  const name = storageName(type.name);
  const dtype = STORAGE_DTYPES.get(name);
  if (dtype === undefined && !name.endsWith('.UntypedStorage')) return { key, storage: new OpaqueValue(type.name) };
  const bytes = dtype === undefined ? 1 : (DTYPE_BYTES.get(dtype) ?? 1);
  const viewOffset = view instanceof PickleTuple ? view.items[1] : 0;
  if (!isCount(viewOffset)) throw new PickleProblem('it describes a view of a storage without a place');
  const sizeBytes = safeProduct([elements, bytes]);
  return { key, storage: new PickledStorage(key, dtype, sizeBytes, safeProduct([viewOffset, bytes])) };
}

/** A tensor in a storage; undefined for a storage or dtype that has no form here. */
function makeTensor(
  storage: PickleValue | undefined,
  offset: PickleValue | undefined,
  size: PickleValue | undefined,
  strides: PickleValue | undefined,
  dtypeName?: PickleValue,
): PickledTensor | undefined {
  if (storage instanceof OpaqueValue) return undefined;
  if (!(storage instanceof PickledStorage)) throw new PickleProblem('it describes a tensor without a storage');
  const dtype = dtypeName instanceof ImportedName ? TORCH_DTYPES.get(dtypeName.name) : storage.dtype;
  const bytes = dtype === undefined ? undefined : DTYPE_BYTES.get(dtype);
  if (dtype === undefined || bytes === undefined) return undefined;
  const shape = countsOf(size, 'shape');
  const steps = countsOf(strides, 'strides');
  if (shape.length > MAX_RANK) throw new PickleProblem(`it describes a tensor of ${shape.length} dimensions`);
  if (steps.length !== shape.length || !isCount(offset)) {
    throw new PickleProblem('it describes a tensor whose shape and strides do not fit each other');
  }
  const place: TensorPlace = {
    dtype,
    shape,
    strides: steps,
    storage,
    offset: storage.viewOffset + safeProduct([offset, bytes]),
    sizeBytes: safeProduct([...shape, bytes]),
  };
  // One past the last element that the strides reach; all must lie in the storage.
  const isEmpty = shape.includes(0);
  const last = shape.reduce((sum, side, i) => sum + (side - 1) * (steps[i] ?? 0), 0);
  const end = isEmpty ? place.offset : place.offset + safeProduct([last + 1, bytes]);
  if (!Number.isSafeInteger(end) || end > storage.sizeBytes) {
    throw new PickleProblem(
      `it has a tensor [${shape.join(', ')}] that needs ${end} bytes of a storage of ${storage.sizeBytes}`,
    );
  }
  return new PickledTensor(place);
}

function countsOf(value: PickleValue | undefined, what: string): readonly number[] {
  const items = value instanceof PickleTuple || value instanceof PickleList ? value.items : undefined;
  if (items?.every(isCount) !== true) {
    throw new PickleProblem(`it describes a tensor whose ${what} is no list of whole numbers`);
  }
  return items.map(Number);
}

function isCount(value: PickleValue | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function safeProduct(factors: readonly number[]): number {
  const product = factors.reduce((a, b) => a * b, 1);
  if (!Number.isSafeInteger(product)) throw new PickleProblem(`it has an absurd size, ${factors.join(' × ')}`);
  return product;
}
