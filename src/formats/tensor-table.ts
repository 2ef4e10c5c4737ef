/**
 * Names, dtypes, shapes and places of a file's tensors in columns: what thousands of headers are read into.
 *
 * A header of 800 tensors is three objects per tensor as a ModelHeader; here it is six arrays. Names are numbers, so that
 * what is made of a name can be kept from one table to the next.
 */
import type { ModelHeader } from './model-header.js';

/** Names by number. */
export interface TensorNames {
  name(id: number): string;
  /** What a pure function makes of a name, by the name's number. It is called once per name where that is possible. */
  memo<T extends number | object>(describe: (name: string) => T): (id: number) => T;
}

export interface TensorColumns {
  readonly count: number;
  readonly names: TensorNames;
  /** The name of tensor i, as a number. */
  readonly ids: Int32Array;
  /** Index of a name, or -1. */
  readonly indexOf: (name: string) => number;
  /** Index into `dtypeNames`. */
  readonly dtypes: Uint8Array;
  readonly dtypeNames: readonly string[];
  /** Sides of tensor i: `sides[sideStarts[i]]` to `sides[sideStarts[i + 1]]`. */
  readonly sideStarts: Int32Array;
  readonly sides: Float64Array;
  /** Position of the first byte in the file. */
  readonly offsets: Float64Array;
  readonly sizes: Float64Array;
}

export interface DtypeShare {
  tensors: number;
  parameters: number;
  bytes: number;
}

/** A description of one tensor, for tables that are not scanned. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly offset: number;
  readonly sizeBytes: number;
}

export class TensorTable {
  readonly columns: TensorColumns;

  constructor(columns: TensorColumns) {
    this.columns = columns;
  }

  static fromEntries(entries: readonly TensorEntry[]): TensorTable {
    const count = entries.length;
    const names = new ListedNames(entries.map(({ name }) => name));
    const dtypes = new Uint8Array(count);
    const sideStarts = new Int32Array(count + 1);
    const offsets = new Float64Array(count);
    const sizes = new Float64Array(count);
    const dtypeNames: string[] = [];
    const sides: number[] = [];
    entries.forEach(({ dtype, shape, offset, sizeBytes }, i) => {
      if (!dtypeNames.includes(dtype)) dtypeNames.push(dtype);
      dtypes[i] = dtypeNames.indexOf(dtype);
      sides.push(...shape);
      sideStarts[i + 1] = sides.length;
      offsets[i] = offset;
      sizes[i] = sizeBytes;
    });
    return new TensorTable({
      count,
      names,
      ids: Int32Array.from({ length: count }, (_none, i) => i),
      indexOf: (name) => names.indexOf(name),
      dtypes,
      dtypeNames,
      sideStarts,
      sides: Float64Array.from(sides),
      offsets,
      sizes,
    });
  }

  static fromHeader(header: Pick<ModelHeader, 'tensors'>): TensorTable {
    return TensorTable.fromEntries([...header.tensors.values()]);
  }

  get count(): number {
    return this.columns.count;
  }

  name(index: number): string {
    const { names, ids } = this.columns;
    return names.name(ids[index] ?? -1);
  }

  dtype(index: number): string {
    return this.columns.dtypeNames[this.columns.dtypes[index] ?? 0] ?? '';
  }

  shape(index: number): number[] {
    const { sides, sideStarts } = this.columns;
    return Array.from(sides.subarray(sideStarts[index], sideStarts[index + 1]));
  }

  /** A side of a tensor; negative axes count from the end; undefined beyond its dimensions. */
  side(index: number, axis: number): number | undefined {
    const { sides, sideStarts } = this.columns;
    const first = sideStarts[index] ?? 0;
    const end = sideStarts[index + 1] ?? first;
    const at = axis < 0 ? end + axis : first + axis;
    return at >= first && at < end ? sides[at] : undefined;
  }

  rank(index: number): number {
    const { sideStarts } = this.columns;
    return (sideStarts[index + 1] ?? 0) - (sideStarts[index] ?? 0);
  }

  parameters(index: number): number {
    const { sides, sideStarts } = this.columns;
    let product = 1;
    for (let at = sideStarts[index] ?? 0; at < (sideStarts[index + 1] ?? 0); at += 1) product *= sides[at] ?? 0;
    return product;
  }

  /** Index of a name, or -1. */
  indexOf(name: string): number {
    return this.columns.indexOf(name);
  }

  has(name: string): boolean {
    return this.indexOf(name) !== -1;
  }

  /** Shape of a tensor by name; undefined when there is none. */
  shapeOf(name: string): readonly number[] | undefined {
    const index = this.indexOf(name);
    return index === -1 ? undefined : this.shape(index);
  }

  /** Tensors, parameters and bytes per dtype. */
  histogram(): Record<string, DtypeShare> {
    const { count, dtypes, dtypeNames, sizes } = this.columns;
    // Numbers in arrays: they outgrow small integers, and objects with such fields are made anew in another form.
    const tensors = new Int32Array(dtypeNames.length);
    const parameters = new Float64Array(dtypeNames.length);
    const bytes = new Float64Array(dtypeNames.length);
    for (let i = 0; i < count; i += 1) {
      const dtype = dtypes[i] ?? 0;
      tensors[dtype] = (tensors[dtype] ?? 0) + 1;
      parameters[dtype] = (parameters[dtype] ?? 0) + this.parameters(i);
      bytes[dtype] = (bytes[dtype] ?? 0) + (sizes[i] ?? 0);
    }
    const present = dtypeNames.map((name, i) => [name, i] as const).filter(([, i]) => (tensors[i] ?? 0) > 0);
    return Object.fromEntries(
      present
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([name, i]) => [name, { tensors: tensors[i] ?? 0, parameters: parameters[i] ?? 0, bytes: bytes[i] ?? 0 }]),
    );
  }
}

/** Names of one table that is not scanned. */
class ListedNames implements TensorNames {
  readonly #names: readonly string[];
  #byName: Map<string, number> | undefined;

  constructor(names: readonly string[]) {
    this.#names = names;
  }

  name(id: number): string {
    return this.#names[id] ?? '';
  }

  memo<T extends number | object>(describe: (name: string) => T): (id: number) => T {
    const made: T[] = [];
    return (id) => (made[id] ??= describe(this.name(id)));
  }

  indexOf(name: string): number {
    this.#byName ??= new Map(this.#names.map((listed, i) => [listed, i]));
    return this.#byName.get(name) ?? -1;
  }
}
