/**
 * What each instruction of a pickle does to the machine. All of protocols 0 to 5 are known.
 *
 * Source: the instructions as CPython's pickletools documents them.
 */
import type { PickleMachine } from './machine.js';
import { PickleProblem } from './problem.js';
import { PickleDict, PickleList, PickleTuple, type PickleValue } from './values.js';

const MAX_LINE_BYTES = 65_536;
const MAX_DIGIT_BYTES = 256;

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
  m.push(bytes.toString('utf8'));
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
  const name = m.dottedName();
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
    m.import(m.dottedName());
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

/** By the byte that stands for them; undefined where none does. */
export const INSTRUCTIONS: readonly (Instruction | undefined)[] = ((): (Instruction | undefined)[] => {
  const table = new Array<Instruction | undefined>(256).fill(undefined);
  for (const [character, instruction] of Object.entries(BY_CHARACTER)) table[character.charCodeAt(0)] = instruction;
  for (const [code, instruction] of Object.entries(BY_NUMBER)) table[Number(code)] = instruction;
  return table;
})();
