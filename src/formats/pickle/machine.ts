/**
 * A pickle as data: walks its instructions and keeps what they describe, without Python and without calling anything.
 *
 * What a pickle wants imported is noted by name; what it wants called or built is handed to a `PickleWorld`, which knows
 * a few harmless names and makes opaque values of the rest. What each instruction does is in instructions.ts.
 *
 * A pickle that breaks off after it called something has still called it when Python reads it: the names noted until then
 * stay, whatever is thrown.
 */
import { COMPUTED_NAME } from './imports.js';
import { INSTRUCTIONS } from './instructions.js';
import { PickleEndedEarly, PickleProblem } from './problem.js';
import { ImportedName, OpaqueValue, PickleDict, PickleList, type PickleValue } from './values.js';

export interface PickleWorld {
  /** What `callable(*args)` gives, or an object of a class; must not do anything. */
  make(callable: PickleValue, args: readonly PickleValue[]): PickleValue;
  /** What a persistent id stands for. */
  persistent(id: PickleValue): PickleValue;
}

/** A checkpoint of 2,000 tensors has 100,000; optimizer states and word lists have more. */
const MAX_INSTRUCTIONS = 4_000_000;
const MAX_MARKS = 1000;
/** Names of modules and classes; Python has no limit, people do. */
const MAX_NAME_LENGTH = 1000;
const MAX_IMPORTS = 1000;

export class PickleMachine {
  /** Everything that Python would import, in order. */
  readonly imports = new Set<string>();
  readonly #bytes: Buffer;
  readonly #world: PickleWorld;
  readonly #memo = new Map<number, PickleValue>();
  readonly #marked: PickleValue[][] = [];
  #stack: PickleValue[] = [];
  #position: number;
  #isDone = false;

  constructor(bytes: Uint8Array, position: number, world: PickleWorld) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#position = position;
    this.#world = world;
  }

  /** Where the next byte is. */
  get position(): number {
    return this.#position;
  }

  /** @throws {PickleProblem} */
  run(): PickleValue {
    for (let count = 0; !this.#isDone; count += 1) {
      if (count === MAX_INSTRUCTIONS) throw new PickleProblem(`it has more than ${MAX_INSTRUCTIONS} instructions`);
      const code = this.byte();
      const instruction = INSTRUCTIONS[code];
      if (instruction === undefined) throw new PickleProblem(`it has the unknown instruction ${code}`);
      instruction(this);
    }
    return this.pop();
  }

  stop(): void {
    this.#isDone = true;
  }

  byte(): number {
    return this.take(1)[0] ?? 0;
  }

  take(length: number): Buffer {
    const end = this.#position + length;
    if (end > this.#bytes.length) throw new PickleEndedEarly('it ends in the middle of its table of tensors');
    const taken = this.#bytes.subarray(this.#position, end);
    this.#position = end;
    return taken;
  }

  /** A length of eight bytes. */
  length8(): number {
    const length = this.take(8).readBigUInt64LE();
    if (length > BigInt(this.#bytes.length)) throw new PickleEndedEarly(`it claims a text of ${length} bytes`);
    return Number(length);
  }

  line(limit: number): string {
    const end = this.#bytes.indexOf(0x0a, this.#position);
    const length = (end === -1 ? this.#bytes.length : end) - this.#position;
    if (length > limit) throw new PickleProblem(`it has a line of ${length} bytes`);
    if (end === -1) throw new PickleEndedEarly('it ends in the middle of a line');
    return this.take(length + 1)
      .subarray(0, -1)
      .toString('utf8');
  }

  /** A line with a module and one with a name in it. */
  dottedName(): string {
    return `${this.line(MAX_NAME_LENGTH)}.${this.line(MAX_NAME_LENGTH)}`;
  }

  push(value: PickleValue): void {
    this.#stack.push(value);
  }

  pop(): PickleValue {
    const value = this.#stack.pop();
    if (value === undefined) throw new PickleProblem('it takes a value where there is none');
    return value;
  }

  top(): PickleValue {
    const value = this.#stack.at(-1);
    if (value === undefined) throw new PickleProblem('it uses a value where there is none');
    return value;
  }

  mark(): void {
    if (this.#marked.length === MAX_MARKS) throw new PickleProblem(`it is nested more than ${MAX_MARKS} deep`);
    this.#marked.push(this.#stack);
    this.#stack = [];
  }

  /** Everything since the last mark. */
  popMark(): PickleValue[] {
    const items = this.#stack;
    const outer = this.#marked.pop();
    if (outer === undefined) throw new PickleProblem('it goes back to a mark that it did not set');
    this.#stack = outer;
    return items;
  }

  /** Python's POP takes a mark where there is no value above it. */
  drop(): void {
    if (this.#stack.length > 0) this.#stack.pop();
    else this.popMark();
  }

  put(index: number): void {
    this.#memo.set(index, this.top());
  }

  memoize(): void {
    this.put(this.#memo.size);
  }

  get(index: number): void {
    const value = this.#memo.get(index);
    if (value === undefined) throw new PickleProblem(`it remembers entry ${index}, which it never noted`);
    this.push(value);
  }

  import(name: string): void {
    if (name.length > MAX_NAME_LENGTH) throw new PickleProblem(`it imports a name of ${name.length} characters`);
    if (this.imports.size === MAX_IMPORTS) throw new PickleProblem(`it imports more than ${MAX_IMPORTS} names`);
    this.imports.add(name);
    this.push(new ImportedName(name));
  }

  importFromStack(): void {
    const name = this.pop();
    const module = this.pop();
    const isPlain = typeof name === 'string' && typeof module === 'string';
    this.import(isPlain ? `${module}.${name}` : COMPUTED_NAME);
  }

  make(callable: PickleValue, args: readonly PickleValue[]): void {
    this.push(this.#world.make(callable, args));
  }

  persistent(id: PickleValue): void {
    this.push(this.#world.persistent(id));
  }

  append(items: readonly PickleValue[]): void {
    const target = this.top();
    const into =
      target instanceof PickleList ? target.items : target instanceof OpaqueValue ? target.children : undefined;
    if (into === undefined) throw new PickleProblem('it adds to something that is no list');
    for (const item of items) into.push(item);
  }

  setItems(items: readonly PickleValue[]): void {
    const target = this.top();
    if (items.length % 2 !== 0) throw new PickleProblem('it sets a key without a value');
    if (target instanceof OpaqueValue) {
      for (const item of items) target.children.push(item);
    } else if (target instanceof PickleDict) {
      for (let i = 0; i < items.length; i += 2) target.entries.set(items[i] ?? null, items[i + 1] ?? null);
    } else throw new PickleProblem('it sets keys of something that is no table');
  }

  /** The state of an object; tensors and tables of Python's own keep none that matters. */
  build(): void {
    const state = this.pop();
    const target = this.top();
    if (target instanceof OpaqueValue) target.children.push(state);
  }
}
