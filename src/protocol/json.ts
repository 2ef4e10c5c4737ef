/**
 * JSON without loss.
 *
 * Seeds exceed 2^53, and the order of a prompt's nodes has a meaning that JavaScript objects lose for keys such as "10":
 * objects are read into maps, and integers that a number cannot hold into bigints. Depth and size are bounded. Written
 * JSON never holds NaN or Infinity.
 */
import { InvalidRequestError } from '../common/errors.js';

export type JsonValue = null | boolean | number | bigint | string | WholeFloat | readonly JsonValue[] | JsonObject;
/** Keys in the order in which they were written; a repeated key keeps its first place and takes the last value. */
export type JsonObject = ReadonlyMap<string, JsonValue>;

/** What can be written: wire values, and plain objects for what we make ourselves. */
export type Jsonable =
  | null
  | boolean
  | number
  | bigint
  | string
  | undefined
  | WholeFloat
  | readonly Jsonable[]
  | JsonableObject
  | ReadonlyMap<string, Jsonable>;
export interface JsonableObject {
  readonly [key: string]: Jsonable;
}

/**
 * A float whose value is whole. A number cannot tell 5.0 from 5, but ComfyUI shows them apart, and takes no slot of 0.0.
 */
export interface WholeFloat {
  readonly wholeFloat: number;
}

const WHOLE_FLOATS = new WeakSet<object>();

export function isWholeFloat(value: unknown): value is WholeFloat {
  return typeof value === 'object' && value !== null && WHOLE_FLOATS.has(value);
}

/** As Python writes it: always with a point or an exponent. */
function writeWholeFloat({ wholeFloat: value }: WholeFloat): string {
  if (Object.is(value, -0)) return '-0.0';
  return Math.abs(value) < 1e16 ? `${value}.0` : value.toExponential();
}

/** A float as it is written: whole ones apart from integers. */
export function asFloat(value: number): number | WholeFloat {
  if (!Number.isInteger(value)) return value;
  const float: WholeFloat = { wholeFloat: value };
  WHOLE_FLOATS.add(float);
  return float;
}

/** The number, however it was written; other values as they are. */
export function withoutFloatMark<T>(value: T): Exclude<T, WholeFloat> | number {
  return isWholeFloat(value) ? value.wholeFloat : (value as Exclude<T, WholeFloat>);
}

/** Python's parser stops at its recursion limit, near 1000. */
const MAX_DEPTH = 500;

export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return value instanceof Map;
}

interface ParseOptions {
  /** Whole floats are told from integers: for what is kept, or shown again. Default false. */
  readonly keepsFloats?: boolean;
  /** What the text is, for the message. Default `The body`. */
  readonly label?: string;
}

/** @throws {InvalidRequestError} with the position of what is wrong */
export function parseJson(text: string, { keepsFloats = false, label = 'The body' }: ParseOptions = {}): JsonValue {
  const reader = new Reader(text, keepsFloats, label);
  const value = reader.value(0);
  reader.end();
  return value;
}

const NUMBER = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?/y;
const BLANK = /[ \t\n\r]*/y;
/** A text without escapes and control characters, the common case, up to its closing quote. */
const PLAIN_TEXT = /"(?:[^"\\\p{Cc}]|[\u007f-\u009f])*"/uy;

class Reader {
  readonly #text: string;
  readonly #keepsFloats: boolean;
  readonly #label: string;
  #at = 0;

  constructor(text: string, keepsFloats: boolean, label: string) {
    this.#keepsFloats = keepsFloats;
    this.#label = label;
    this.#text = text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  }

  value(depth: number): JsonValue {
    if (depth > MAX_DEPTH) throw this.#problem(`more than ${MAX_DEPTH} levels deep`);
    this.#blank();
    const first = this.#text[this.#at];
    if (first === '{') return this.#object(depth);
    if (first === '[') return this.#array(depth);
    if (first === '"') return this.#string();
    if (first === 't') return this.#word('true', true);
    if (first === 'f') return this.#word('false', false);
    if (first === 'n') return this.#word('null', null);
    return this.#number();
  }

  end(): void {
    this.#blank();
    if (this.#at < this.#text.length) throw this.#problem('something follows the value');
  }

  #object(depth: number): JsonObject {
    const object = new Map<string, JsonValue>();
    this.#at += 1;
    this.#blank();
    if (this.#take('}')) return object;
    do {
      this.#blank();
      if (this.#text[this.#at] !== '"') throw this.#problem('a key in quotes is expected');
      const key = this.#string();
      this.#blank();
      if (!this.#take(':')) throw this.#problem('":" is expected');
      object.set(key, this.value(depth + 1));
      this.#blank();
    } while (this.#take(','));
    if (!this.#take('}')) throw this.#problem('"," or "}" is expected');
    return object;
  }

  #array(depth: number): JsonValue[] {
    const items: JsonValue[] = [];
    this.#at += 1;
    this.#blank();
    if (this.#take(']')) return items;
    do {
      items.push(this.value(depth + 1));
      this.#blank();
    } while (this.#take(','));
    if (!this.#take(']')) throw this.#problem('"," or "]" is expected');
    return items;
  }

  #string(): string {
    PLAIN_TEXT.lastIndex = this.#at;
    const plain = PLAIN_TEXT.exec(this.#text);
    if (plain !== null) {
      this.#at += plain[0].length;
      return plain[0].slice(1, -1);
    }
    let end = this.#at + 1;
    while (end < this.#text.length && this.#text[end] !== '"') end += this.#text[end] === '\\' ? 2 : 1;
    const raw = this.#text.slice(this.#at, end + 1);
    try {
      const value: unknown = JSON.parse(raw);
      if (typeof value !== 'string') throw new Error('not a text');
      this.#at = end + 1;
      return value;
    } catch {
      throw this.#problem('a text is not closed or holds a bad escape');
    }
  }

  #number(): number | bigint | WholeFloat {
    NUMBER.lastIndex = this.#at;
    const match = NUMBER.exec(this.#text);
    if (match === null) throw this.#problem('a value is expected');
    this.#at += match[0].length;
    const value = Number(match[0]);
    const isInteger = match[1] === undefined && match[2] === undefined;
    if (isInteger && !Number.isSafeInteger(value)) {
      if (match[0].length > 4300) throw this.#problem('a number has more than 4300 digits'); // Python's own limit
      return BigInt(match[0]);
    }
    if (!Number.isFinite(value)) throw this.#problem(`the number ${match[0]} is too large`);
    return !isInteger && this.#keepsFloats ? asFloat(value) : value;
  }

  #word<T extends JsonValue>(word: string, value: T): T {
    if (!this.#text.startsWith(word, this.#at)) throw this.#problem('a value is expected');
    this.#at += word.length;
    return value;
  }

  #blank(): void {
    BLANK.lastIndex = this.#at;
    this.#at += BLANK.exec(this.#text)?.[0].length ?? 0;
  }

  #take(character: string): boolean {
    if (this.#text[this.#at] !== character) return false;
    this.#at += 1;
    return true;
  }

  #problem(what: string): InvalidRequestError {
    return new InvalidRequestError(`${this.#label} is not JSON: at character ${this.#at}, ${what}.`, {
      details: { position: this.#at },
    });
  }
}

/** Writes JSON; entries that are undefined are left out, as JSON.stringify leaves them out. */
export function writeJson(value: Jsonable): string {
  if (typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'number') return Number.isFinite(value) ? String(value) : 'null';
  if (typeof value === 'bigint' || typeof value === 'boolean') return String(value);
  if (value === undefined || value === null) return 'null';
  if (isWholeFloat(value)) return writeWholeFloat(value);
  if (isArray(value)) return `[${value.map(writeJson).join(', ')}]`;
  const written: string[] = [];
  for (const [key, entry] of isMap(value) ? value : Object.entries(value)) {
    if (entry !== undefined) written.push(`${JSON.stringify(key)}: ${writeJson(entry)}`);
  }
  return `{${written.join(', ')}}`;
}

/** JSON in ASCII alone, as Python writes it; for text chunks of images. */
export function writeAsciiJson(value: Jsonable): string {
  return writeJson(value).replaceAll(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** Plain objects for schemas; only for values whose key order does not matter. */
export function toPlain(value: JsonValue): unknown {
  if (isJsonObject(value)) return Object.fromEntries([...value].map(([key, entry]) => [key, toPlain(entry)]));
  return isArray(value) ? value.map(toPlain) : withoutFloatMark(value);
}

function isArray<T>(
  value: readonly T[] | object | string | number | bigint | boolean | null | undefined,
): value is readonly T[] {
  return Array.isArray(value);
}

function isMap(value: JsonableObject | ReadonlyMap<string, Jsonable>): value is ReadonlyMap<string, Jsonable> {
  return value instanceof Map;
}
