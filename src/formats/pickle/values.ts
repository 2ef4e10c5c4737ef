/** What a pickle describes, as plain data: nothing here can be called. */

export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | PickleTuple
  | PickleList
  | PickleDict
  | ImportedName
  | PickledStorage
  | PickledTensor
  | OpaqueValue;

export class PickleTuple {
  readonly items: readonly PickleValue[];

  constructor(items: readonly PickleValue[]) {
    this.items = items;
  }
}

/** A list; sets are kept as lists too. */
export class PickleList {
  readonly items: PickleValue[];

  constructor(items: PickleValue[] = []) {
    this.items = items;
  }
}

export class PickleDict {
  readonly entries = new Map<PickleValue, PickleValue>();
}

/** Something that Python would import by name. It is never looked up. */
export class ImportedName {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }
}

/** Bytes that lie beside the pickle. */
export class PickledStorage {
  readonly key: string;
  /** safetensors' name of the dtype; undefined for raw bytes. */
  readonly dtype: string | undefined;
  readonly sizeBytes: number;
  /** Where a view of the storage begins, in bytes; old files have views. */
  readonly viewOffset: number;

  constructor(key: string, dtype: string | undefined, sizeBytes: number, viewOffset: number) {
    this.key = key;
    this.dtype = dtype;
    this.sizeBytes = sizeBytes;
    this.viewOffset = viewOffset;
  }
}

export interface TensorPlace {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Elements from one index to the next, for every dimension. */
  readonly strides: readonly number[];
  readonly storage: PickledStorage;
  /** Bytes from the beginning of the storage to the first element. */
  readonly offset: number;
  /** Bytes of all elements, each counted once. */
  readonly sizeBytes: number;
}

export class PickledTensor {
  readonly place: TensorPlace;

  constructor(place: TensorPlace) {
    this.place = place;
  }
}

/** An object that is not made; what was put into it is kept, so that tensors in it are found. */
export class OpaqueValue {
  readonly what: string;
  readonly children: PickleValue[];

  constructor(what: string, children: PickleValue[] = []) {
    this.what = what;
    this.children = children;
  }
}

/** A word for messages. */
export function describeValue(value: PickleValue): string {
  if (value === null) return 'nothing';
  if (value instanceof PickleTuple || value instanceof PickleList) return 'a list';
  if (value instanceof PickleDict) return 'a table';
  if (value instanceof PickledTensor) return 'a single tensor';
  if (value instanceof PickledStorage) return 'raw storage';
  if (value instanceof OpaqueValue) return `an object of ${value.what}`;
  if (value instanceof ImportedName) return `the name ${value.name}`;
  if (value instanceof Uint8Array) return 'bytes';
  return `a ${typeof value}`;
}
