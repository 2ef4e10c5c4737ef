/**
 * A pickle as data: walks its instructions and keeps what they describe, without Python and without calling anything.
 *
 * All instructions of protocols 0 to 5 are known. What a pickle wants imported is noted by name; what it wants called or
 * built is handed to a `PickleWorld`, which knows a few harmless names and makes opaque values of the rest.
 *
 * A pickle that breaks off after it called something has still called it when Python reads it: the names noted until then
 * stay, whatever is thrown.
 *
 * Source: the instructions as CPython's pickletools documents them.
 */
import { COMPUTED_NAME } from './imports.js';
import { ImportedName, OpaqueValue, PickleDict, PickleList, PickleTuple, type PickleValue } from './values.js';

/** Why a pickle is refused, without the file's name: the caller adds it. */
export class PickleProblem extends Error {}

/** The bytes end before the pickle does. */
export class PickleEndedEarly extends PickleProblem {}

export interface PickleWorld {
  /** What `callable(*args)` gives, or an object of a class; must not do anything. */
  make(callable: PickleValue, args: readonly PickleValue[]): PickleValue;
  /** What a persistent id stands for. */
  persistent(id: PickleValue): PickleValue;
}

/** A checkpoint of 2,000 tensors has 100,000; optimizer states and word lists have more. */
const MAX_INSTRUCTIONS = 4_000_000;
const MAX_MARKS = 1000;
const MAX_LINE_BYTES = 65_536;
const MAX_DIGIT_BYTES = 256;
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
    return textOf(this.take(length + 1).subarray(0, -1));
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

type Instruction = (m: PickleMachine) => void;

function itemsOf(value: PickleValue): readonly PickleValue[] {
  if (value instanceof PickleTuple) return value.items;
  throw new PickleProblem('it calls something with arguments that are no list');
}

function tupleOf(m: PickleMachine, length: number): void {
  const items = Array.from({ length }, () => m.pop()).reverse();
  m.push(new PickleTuple(items));
}

function dictOf(m: PickleMachine): void {
  const items = m.popMark();
  m.push(new PickleDict());
  m.setItems(items);
}

/** Whole numbers of any size, two's complement, little-endian. */
function wholeNumber(bytes: Buffer): number | bigint {
  if (bytes.length === 0) return 0;
  const magnitude = BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`);
  return plain(BigInt.asIntN(bytes.length * 8, magnitude));
}

function plain(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function pushDigits(m: PickleMachine, text: string): void {
  const digits = text.replace(/L$/, '').trim();
  if (!/^[+-]?\d+$/.test(digits)) throw new PickleProblem('it has a number that is none');
  m.push(plain(BigInt(digits)));
}

/** Bytes or a text of Python 2: text, as people wrote it. */
function pushText(m: PickleMachine, bytes: Buffer): void {
  m.push(textOf(bytes));
}

function textOf(bytes: Buffer): string {
  return bytes.toString('utf8');
}

function pushBytes(m: PickleMachine, bytes: Buffer): void {
  m.push(new Uint8Array(bytes));
}

/** A text in Python's quotes. */
function pushQuoted(m: PickleMachine): void {
  const text = m.line(MAX_LINE_BYTES).trim();
  if (!/^(['"]).*\1$/s.test(text)) throw new PickleProblem('it has a text without quotes');
  m.push(text.slice(1, -1));
}

/** Classes of old pickles: the arguments since the mark. */
function instanceOf(m: PickleMachine): void {
  const name = `${m.line(MAX_NAME_LENGTH)}.${m.line(MAX_NAME_LENGTH)}`;
  const args = m.popMark();
  m.import(name);
  m.make(m.pop(), args);
}

/** By the character that pickletools names; those beyond ASCII by number. */
const BY_CHARACTER: Readonly<Record<string, Instruction>> = {
  '(': (m) => {
    m.mark();
  },
  '.': (m) => {
    m.stop();
  },
  '0': (m) => {
    m.drop();
  },
  '1': (m) => {
    m.popMark();
  },
  '2': (m) => {
    m.push(m.top());
  },
  F: (m) => {
    m.push(Number(m.line(MAX_DIGIT_BYTES)));
  },
  G: (m) => {
    m.push(m.take(8).readDoubleBE());
  },
  I: (m) => {
    const text = m.line(MAX_DIGIT_BYTES);
    if (text === '00' || text === '01') m.push(text === '01');
    else pushDigits(m, text);
  },
  J: (m) => {
    m.push(m.take(4).readInt32LE());
  },
  K: (m) => {
    m.push(m.byte());
  },
  L: (m) => {
    pushDigits(m, m.line(MAX_DIGIT_BYTES));
  },
  M: (m) => {
    m.push(m.take(2).readUInt16LE());
  },
  N: (m) => {
    m.push(null);
  },
  P: (m) => {
    m.persistent(m.line(MAX_LINE_BYTES));
  },
  Q: (m) => {
    m.persistent(m.pop());
  },
  R: (m) => {
    const args = itemsOf(m.pop());
    m.make(m.pop(), args);
  },
  S: pushQuoted,
  T: (m) => {
    pushText(m, m.take(m.take(4).readUInt32LE()));
  },
  U: (m) => {
    pushText(m, m.take(m.byte()));
  },
  V: (m) => {
    m.push(m.line(MAX_LINE_BYTES));
  },
  X: (m) => {
    pushText(m, m.take(m.take(4).readUInt32LE()));
  },
  a: (m) => {
    m.append([m.pop()]);
  },
  b: (m) => {
    m.build();
  },
  c: (m) => {
    m.import(`${m.line(MAX_NAME_LENGTH)}.${m.line(MAX_NAME_LENGTH)}`);
  },
  d: dictOf,
  e: (m) => {
    m.append(m.popMark());
  },
  g: (m) => {
    m.get(Number(m.line(MAX_DIGIT_BYTES)));
  },
  h: (m) => {
    m.get(m.byte());
  },
  i: instanceOf,
  j: (m) => {
    m.get(m.take(4).readUInt32LE());
  },
  l: (m) => {
    m.push(new PickleList(m.popMark()));
  },
  o: (m) => {
    const [callable, ...args] = m.popMark();
    if (callable === undefined) throw new PickleProblem('it makes an object of no class');
    m.make(callable, args);
  },
  p: (m) => {
    m.put(Number(m.line(MAX_DIGIT_BYTES)));
  },
  q: (m) => {
    m.put(m.byte());
  },
  r: (m) => {
    m.put(m.take(4).readUInt32LE());
  },
  s: (m) => {
    const value = m.pop();
    m.setItems([m.pop(), value]);
  },
  t: (m) => {
    m.push(new PickleTuple(m.popMark()));
  },
  u: (m) => {
    m.setItems(m.popMark());
  },
  ')': (m) => {
    m.push(new PickleTuple([]));
  },
  ']': (m) => {
    m.push(new PickleList());
  },
  '}': (m) => {
    m.push(new PickleDict());
  },
  B: (m) => {
    pushBytes(m, m.take(m.take(4).readUInt32LE()));
  },
  C: (m) => {
    pushBytes(m, m.take(m.byte()));
  },
};

const extension = (read: (m: PickleMachine) => number): Instruction => {
  return (m) => {
    m.import(`copyreg.extension ${read(m)}`);
  };
};

const BY_NUMBER: Readonly<Record<number, Instruction>> = {
  // Protocol 2.
  0x80: (m) => {
    const protocol = m.byte();
    if (protocol > 5) throw new PickleProblem(`it has the protocol ${protocol}; 5 is the newest`);
  },
  0x81: (m) => {
    const args = itemsOf(m.pop());
    m.make(m.pop(), args);
  },
  0x82: extension((m) => m.byte()),
  0x83: extension((m) => m.take(2).readUInt16LE()),
  0x84: extension((m) => m.take(4).readInt32LE()),
  0x85: (m) => {
    tupleOf(m, 1);
  },
  0x86: (m) => {
    tupleOf(m, 2);
  },
  0x87: (m) => {
    tupleOf(m, 3);
  },
  0x88: (m) => {
    m.push(true);
  },
  0x89: (m) => {
    m.push(false);
  },
  0x8a: (m) => {
    m.push(wholeNumber(m.take(m.byte())));
  },
  0x8b: (m) => {
    const length = m.take(4).readInt32LE();
    if (length < 0 || length > MAX_DIGIT_BYTES) throw new PickleProblem(`it has a number of ${length} bytes`);
    m.push(wholeNumber(m.take(length)));
  },
  // Protocol 4 and 5.
  0x8c: (m) => {
    pushText(m, m.take(m.byte()));
  },
  0x8d: (m) => {
    pushText(m, m.take(m.length8()));
  },
  0x8e: (m) => {
    pushBytes(m, m.take(m.length8()));
  },
  0x8f: (m) => {
    m.push(new PickleList());
  },
  0x90: (m) => {
    m.append(m.popMark());
  },
  0x91: (m) => {
    m.push(new PickleTuple(m.popMark()));
  },
  0x92: (m) => {
    const named = m.pop();
    const args = itemsOf(m.pop());
    m.make(m.pop(), [...args, named]);
  },
  0x93: (m) => {
    m.importFromStack();
  },
  0x94: (m) => {
    m.memoize();
  },
  0x95: (m) => {
    m.take(8); // The length of a frame: a hint for readers of streams.
  },
  0x96: (m) => {
    pushBytes(m, m.take(m.length8()));
  },
};

const INSTRUCTIONS: readonly (Instruction | undefined)[] = ((): (Instruction | undefined)[] => {
  const table = new Array<Instruction | undefined>(256).fill(undefined);
  for (const [character, instruction] of Object.entries(BY_CHARACTER)) table[character.charCodeAt(0)] = instruction;
  for (const [code, instruction] of Object.entries(BY_NUMBER)) table[Number(code)] = instruction;
  return table;
})();
