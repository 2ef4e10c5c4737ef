/** Tensor names below a prefix, and their shapes: what the rules of the kinds look at. */
import type { TensorTable } from '../../formats/index.js';

export class Keys {
  readonly table: TensorTable;
  readonly prefix: string;

  constructor(table: TensorTable, prefix = '') {
    this.table = table;
    this.prefix = prefix;
  }

  below(prefix: string): Keys {
    return new Keys(this.table, this.prefix + prefix);
  }

  has(...names: readonly string[]): boolean {
    return names.every((name) => this.table.has(this.prefix + name));
  }

  hasAny(...names: readonly string[]): boolean {
    return names.some((name) => this.table.has(this.prefix + name));
  }

  /** A side of a tensor's shape; undefined when there is no such tensor or side. */
  side(name: string, axis: number): number | undefined {
    const index = this.table.indexOf(this.prefix + name);
    return index === -1 ? undefined : this.table.side(index, axis);
  }

  dimensions(name: string): number | undefined {
    return this.table.shapeOf(this.prefix + name)?.length;
  }

  /** Whether any name begins so. */
  hasBelow(start: string): boolean {
    return this.find((name) => name.startsWith(start)) !== undefined;
  }

  /** The first name, without the prefix, that a test accepts, with its place in the table. */
  find(test: (name: string) => boolean): { readonly name: string; readonly index: number } | undefined {
    for (let index = 0; index < this.table.count; index += 1) {
      const name = this.table.name(index);
      if (!name.startsWith(this.prefix)) continue;
      const rest = name.slice(this.prefix.length);
      if (test(rest)) return { name: rest, index };
    }
    return undefined;
  }

  /** Highest number at a place in the names, plus one: `blocks.{}.` counts blocks. */
  count(start: string): number {
    const { table } = this;
    const full = this.prefix + start;
    let highest = -1;
    for (let index = 0; index < table.count; index += 1) {
      const name = table.name(index);
      if (name.startsWith(full)) highest = Math.max(highest, Number.parseInt(name.slice(full.length), 10) || 0);
    }
    return highest + 1;
  }
}
