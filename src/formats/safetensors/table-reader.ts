/**
 * One pass over the tensors of a header, into columns that are used again for the next one.
 *
 * It understands what trainers and libraries write (printable ASCII in names, no escapes, three fields per tensor) and
 * checks it as strictly as header.ts. It gives up on everything else. No text and no object is made on the way: a name is
 * recognised by its bytes, first by guessing that it is the one that followed last time. Then its entry begins with the
 * bytes that are kept in the book, and only numbers are left to read.
 */
import { TensorTable } from '../tensor-table.js';
import { DTYPE_BITS } from './header.js';
import {
  BACKSLASH,
  BLANK,
  CLOSE_LIST,
  CLOSE_OBJECT,
  COLON,
  COMMA,
  DELETE,
  NINE,
  OPEN_LIST,
  OPEN_OBJECT,
  QUOTE,
  ZERO,
  endOfTexts,
  skipBlanks,
} from './json-bytes.js';
import { NameBook, hashStep } from './name-book.js';

const MAX_NAME_BYTES = 4096;
const MAX_RANK = 32;
/** A number of so many digits is surely below 2^53. */
const SAFE_DIGITS = 15;
/** More than the numbers of an entry and what surrounds them take: entries nearer to the end are read with care. */
const LONGEST_NUMBERS = (MAX_RANK + 2) * (SAFE_DIGITS + 2) + 64;
const FIRST_CAPACITY = 1024;

const METADATA_KEY = Buffer.from('__metadata__');
const DTYPE_KEY = Buffer.from('dtype');
const SHAPE_KEY = Buffer.from('shape');
const OFFSETS_KEY = Buffer.from('data_offsets');
const DTYPE_NAMES = Object.keys(DTYPE_BITS);
const DTYPES = DTYPE_NAMES.map((name) => Buffer.from(name));
const BITS = DTYPE_NAMES.map((name) => DTYPE_BITS[name] ?? 0);

/** Eight letters as one number, to compare them at once. Equal numbers are equal bytes, for ASCII is never NaN or zero. */
const word = (letters: string): number => Buffer.from(letters).readDoubleLE();
/** What stands between shape and offsets: as the reference library writes it, and as Python's json does. */
const COMPACT_1 = word('],"data_');
const COMPACT_2 = word('offsets"');
const SPACED_1 = word('], "data');
const SPACED_2 = word('_offsets');

/** The part of a table that is metadata, where it stands among the tensors. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

export class TableReader {
  readonly #book = new NameBook();
  #bytes: Buffer = Buffer.alloc(0);
  #view: DataView = new DataView(new ArrayBuffer(0));
  #at = 0;
  #count = 0;
  #table = 0;
  #ids = new Int32Array(FIRST_CAPACITY);
  #dtypes = new Uint8Array(FIRST_CAPACITY);
  #sideStarts = new Int32Array(FIRST_CAPACITY + 1);
  #offsets = new Float64Array(FIRST_CAPACITY);
  #sizes = new Float64Array(FIRST_CAPACITY);
  #sides = new Float64Array(4 * FIRST_CAPACITY);
  #sideCount = 0;
  /** End of the tensor before. */
  #end = 0;
  /** Tensors that do not begin where the one before ends. */
  #misplaced = 0;
  #metadata: Range | undefined;
  #lastName = -1;
  /** What followed the last name that was not guessed, up to the numbers of the shape, and the dtype that it says. */
  #rest: Buffer = Buffer.alloc(0);
  #restDtype = 0;

  /** Bytes that the tensors of the last table take. */
  get dataBytes(): number {
    return this.#end;
  }

  /** Where the metadata stands, if it is among the tensors of the last table. */
  get metadata(): Range | undefined {
    return this.#metadata;
  }

  /** @returns The table, valid until the next one is read; undefined where a careful reader must look. */
  read(bytes: Buffer): TensorTable | undefined {
    this.#book.tidy();
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#at = skipBlanks(bytes, 0);
    this.#count = 0;
    this.#table += 1;
    this.#sideCount = 0;
    this.#end = 0;
    this.#misplaced = 0;
    this.#metadata = undefined;
    this.#lastName = -1;
    if (!this.#entries() || skipBlanks(bytes, this.#at) !== bytes.length) return undefined;
    if (this.#misplaced > 0 && !this.#isCovered()) return undefined;
    const [book, table] = [this.#book, this.#table];
    return new TensorTable({
      count: this.#count,
      names: book,
      ids: this.#ids,
      indexOf: (name) => {
        const id = book.find(name);
        return id !== -1 && book.tables[id] === table ? (book.positions[id] ?? -1) : -1;
      },
      dtypes: this.#dtypes,
      dtypeNames: DTYPE_NAMES,
      sideStarts: this.#sideStarts,
      sides: this.#sides,
      offsets: this.#offsets,
      sizes: this.#sizes,
    });
  }

  /** Passes all entries and the bracket that closes them. */
  #entries(): boolean {
    const bytes = this.#bytes;
    if (bytes[this.#at] === CLOSE_OBJECT) {
      this.#at += 1;
      return true;
    }
    for (;;) {
      this.#guessed();
      if (bytes[this.#at] !== QUOTE || !this.#unguessed()) return false;
      const at = skipBlanks(bytes, this.#at);
      this.#at = at + 1;
      if (bytes[at] === CLOSE_OBJECT) return true;
      if (bytes[at] !== COMMA) return false;
      this.#at = skipBlanks(bytes, at + 1);
    }
  }

  /** Passes entries for as long as each is the one that followed last time; stands at the first other one. */
  #guessed(): void {
    const view = this.#view;
    const bytes = this.#bytes;
    const { text, starts, beginnings, next, tables, dtypes } = this.#book;
    const last = bytes.length - LONGEST_NUMBERS;
    for (;;) {
      const id = this.#lastName === -1 ? -1 : (next[this.#lastName] ?? -1);
      if (id === -1 || tables[id] === this.#table) return;
      const at = this.#at;
      const length = beginnings[id] ?? 0;
      if (length < 8 || at + length > last) return;
      const from = starts[id] ?? 0;
      const stop = length - 8;
      for (let i = 0; i < stop; i += 8) if (view.getFloat64(at + i, true) !== text.getFloat64(from + i, true)) return;
      if (view.getFloat64(at + stop, true) !== text.getFloat64(from + stop, true)) return;
      const end = this.#numbers(at + length, id, dtypes[id] ?? 0);
      if (end === -1 || bytes[end] !== COMMA) return;
      this.#keep(id);
      this.#at = end + 1;
      if (bytes[end + 1] === BLANK) this.#at = end + 2;
    }
  }

  /**
   * Reads the numbers of an entry, from those of the shape on, and what is between them, in one of the two usual forms.
   *
   * @returns The position after the entry, which is ready to be kept; -1 for any other form.
   */
  #numbers(start: number, id: number, dtype: number): number {
    const bytes = this.#bytes;
    let at = start;
    let byte = bytes[at] ?? 0;
    let sideCount = this.#sideCount;
    const mostSides = sideCount + MAX_RANK;
    if (mostSides > this.#sides.length) this.#growSides();
    const sides = this.#sides;
    let bits = BITS[dtype] ?? 0;
    while (byte !== CLOSE_LIST) {
      const first = at;
      let value = 0;
      for (; byte >= ZERO && byte <= NINE; byte = bytes[at] ?? 0) {
        value = value * 10 + byte - ZERO;
        at += 1;
      }
      if (!isNumber(bytes, first, at) || sideCount === mostSides) return -1;
      sides[sideCount] = value;
      sideCount += 1;
      bits *= value;
      if (byte === COMMA) {
        at += bytes[at + 1] === BLANK ? 2 : 1;
        byte = bytes[at] ?? 0;
        if (byte === CLOSE_LIST) return -1;
      } else if (byte !== CLOSE_LIST) return -1;
    }
    const view = this.#view;
    if (view.getFloat64(at, true) === COMPACT_1) {
      if (view.getFloat64(at + 8, true) !== COMPACT_2 || bytes[at + 16] !== COLON || bytes[at + 17] !== OPEN_LIST)
        return -1;
      at += 18;
    } else {
      if (view.getFloat64(at, true) !== SPACED_1 || view.getFloat64(at + 8, true) !== SPACED_2) return -1;
      if (bytes[at + 16] !== QUOTE || bytes[at + 17] !== COLON || bytes[at + 18] !== BLANK) return -1;
      if (bytes[at + 19] !== OPEN_LIST) return -1;
      at += 20;
    }
    let first = at;
    let begin = 0;
    for (byte = bytes[at] ?? 0; byte >= ZERO && byte <= NINE; byte = bytes[at] ?? 0) {
      begin = begin * 10 + byte - ZERO;
      at += 1;
    }
    if (byte !== COMMA || !isNumber(bytes, first, at)) return -1;
    at += bytes[at + 1] === BLANK ? 2 : 1;
    first = at;
    let end = 0;
    for (byte = bytes[at] ?? 0; byte >= ZERO && byte <= NINE; byte = bytes[at] ?? 0) {
      end = end * 10 + byte - ZERO;
      at += 1;
    }
    if (byte !== CLOSE_LIST || bytes[at + 1] !== CLOSE_OBJECT || !isNumber(bytes, first, at)) return -1;
    return this.#accept(id, dtype, bits, sideCount, begin, end) ? at + 2 : -1;
  }

  /** Writes down an entry whose data has the size that its shape asks for; `#keep` makes it count. */
  #accept(id: number, dtype: number, sizeBits: number, sideEnd: number, begin: number, end: number): boolean {
    if (end < begin || !Number.isSafeInteger(sizeBits) || sizeBits !== (end - begin) * 8) return false;
    const index = this.#count;
    if (index === this.#ids.length) this.#grow();
    this.#ids[index] = id;
    this.#sideStarts[index + 1] = sideEnd;
    this.#dtypes[index] = dtype;
    this.#offsets[index] = begin;
    this.#sizes[index] = end - begin;
    return true;
  }

  #keep(id: number): void {
    const index = this.#count;
    const begin = this.#offsets[index] ?? 0;
    if (begin !== this.#end) this.#misplaced += 1;
    this.#end = begin + (this.#sizes[index] ?? 0);
    this.#count = index + 1;
    this.#sideCount = this.#sideStarts[index + 1] ?? 0;
    const book = this.#book;
    book.tables[id] = this.#table;
    book.positions[id] = index;
    this.#lastName = id;
  }

  /** Passes one entry, whatever its name: `"name":{"dtype":"F16","shape":[4,768],"data_offsets":[0,6144]}`. */
  #unguessed(): boolean {
    const bytes = this.#bytes;
    const book = this.#book;
    const start = this.#at + 1;
    const view = this.#view;
    const last = bytes.length - 4;
    let stop = start;
    let hash = 0;
    for (; stop <= last; stop += 4) {
      const four = view.getInt32(stop, true);
      if (!isPlain(four)) break;
      hash = hashStep(hash, four);
    }
    for (let byte = bytes[stop] ?? 0; byte !== QUOTE; byte = bytes[stop] ?? 0) {
      // Also the end of the bytes: it reads as zero.
      if (byte < BLANK || byte >= DELETE || byte === BACKSLASH) return false;
      hash = hashStep(hash, byte);
      stop += 1;
    }
    if (stop - start > MAX_NAME_BYTES) return false;
    if (bytes[start] === METADATA_KEY[0] && METADATA_KEY.equals(bytes.subarray(start, stop)))
      return this.#passMetadata(stop + 1);
    const id = book.intern(bytes, start, stop, hash);
    if (id === -1 || book.tables[id] === this.#table) return false;
    const previous = this.#lastName;
    const rest = stop + 1;
    const numbers = this.#passRest(rest);
    let end = numbers === -1 ? -1 : this.#numbers(numbers, id, this.#restDtype);
    if (end !== -1) {
      // Most names that come once never come again.
      if (book.tables[id] !== 0) book.learn(id, bytes, stop, numbers, this.#restDtype);
    } else {
      this.#at = rest;
      if (!this.#anyFields(id)) return false;
      end = this.#at;
    }
    this.#keep(id);
    if (previous !== -1) book.next[previous] = id;
    this.#at = end;
    return true;
  }

  /** Position after the same bytes as followed the name before, up to the shape's numbers; -1 for any others. */
  #passRest(start: number): number {
    const bytes = this.#bytes;
    const rest = this.#rest;
    const { length } = rest;
    if (length === 0 || start + length + LONGEST_NUMBERS > bytes.length) return -1;
    for (let i = 0; i < length; i += 1) if (bytes[start + i] !== rest[i]) return -1;
    return start + length;
  }

  /** Metadata that stands among the tensors, once. */
  #passMetadata(start: number): boolean {
    this.#at = start;
    if (this.#metadata !== undefined || !this.#punctuation(COLON)) return false;
    const begin = skipBlanks(this.#bytes, this.#at);
    const end = endOfTexts(this.#bytes, begin);
    if (end === undefined) return false;
    this.#metadata = { start: begin, end };
    this.#at = end;
    return true;
  }

  /** The fields in any order, with blanks between them. */
  #anyFields(id: number): boolean {
    const bytes = this.#bytes;
    const start = this.#at;
    const first = this.#sideCount;
    if (!this.#punctuation(COLON) || !this.#punctuation(OPEN_OBJECT)) return false;
    let dtype = -1;
    let begin = -1;
    let end = -1;
    let sideEnd = -1;
    for (let field = 0; field < 3; field += 1) {
      if (field > 0 && !this.#punctuation(COMMA)) return false;
      this.#at = skipBlanks(bytes, this.#at);
      if (dtype < 0 && this.#word(DTYPE_KEY)) {
        if (!this.#punctuation(COLON)) return false;
        this.#at = skipBlanks(bytes, this.#at);
        dtype = this.#dtype();
        if (dtype === -1) return false;
      } else if (sideEnd < 0 && this.#word(SHAPE_KEY)) {
        if (!this.#punctuation(COLON) || !this.#punctuation(OPEN_LIST)) return false;
        // After the name and the dtype: the next entry probably has the same bytes here.
        if (field === 1 && dtype >= 0) {
          this.#rest = Buffer.from(bytes.subarray(start, this.#at));
          this.#restDtype = dtype;
        }
        if (!this.#list(MAX_RANK)) return false;
        sideEnd = this.#sideCount;
      } else if (end < 0 && this.#word(OFFSETS_KEY)) {
        if (!this.#punctuation(COLON) || !this.#punctuation(OPEN_LIST)) return false;
        const at = this.#sideCount;
        if (!this.#list(2) || this.#sideCount - at !== 2) return false;
        begin = this.#sides[at] ?? -1;
        end = this.#sides[at + 1] ?? -1;
        // The shape may follow; it takes the place of these.
        this.#sideCount = at;
      } else return false;
    }
    if (!this.#punctuation(CLOSE_OBJECT)) return false;
    let bits = BITS[dtype] ?? 0;
    for (let at = first; at < sideEnd; at += 1) bits *= this.#sides[at] ?? 0;
    return this.#accept(id, dtype, bits, this.#sideCount, begin, end);
  }

  /** Passes one character, and blanks before it. */
  #punctuation(wanted: number): boolean {
    const at = skipBlanks(this.#bytes, this.#at);
    if (this.#bytes[at] !== wanted) return false;
    this.#at = at + 1;
    return true;
  }

  /** Passes a quoted word if it is the one that is wanted. */
  #word(wanted: Buffer): boolean {
    const bytes = this.#bytes;
    const at = this.#at;
    if (bytes[at] !== QUOTE || bytes[at + 1 + wanted.length] !== QUOTE) return false;
    for (let i = 0; i < wanted.length; i += 1) if (bytes[at + 1 + i] !== wanted[i]) return false;
    this.#at = at + 2 + wanted.length;
    return true;
  }

  /** Passes the name of a dtype: its code, or -1. */
  #dtype(): number {
    return DTYPES.findIndex((name) => this.#word(name));
  }

  /** Passes a list of whole numbers of at most `most`, whose opening was passed, and appends them to the sides. */
  #list(most: number): boolean {
    const bytes = this.#bytes;
    let at = skipBlanks(bytes, this.#at);
    let next = bytes[at];
    for (let length = 0; next !== CLOSE_LIST; length += 1) {
      if (length === most) return false;
      const start = at;
      let value = 0;
      for (let byte = bytes[at] ?? 0; byte >= ZERO && byte <= NINE; byte = bytes[at] ?? 0) {
        value = value * 10 + byte - ZERO;
        at += 1;
      }
      if (!isNumber(bytes, start, at)) return false;
      if (this.#sideCount === this.#sides.length) this.#growSides();
      this.#sides[this.#sideCount] = value;
      this.#sideCount += 1;
      at = skipBlanks(bytes, at);
      next = bytes[at];
      if (next === COMMA) {
        at = skipBlanks(bytes, at + 1);
        if (bytes[at] === CLOSE_LIST) return false;
      } else if (next !== CLOSE_LIST) return false;
    }
    this.#at = at + 1;
    return true;
  }

  /** Whether tensors that are written in another order than their data cover it all the same, without gap or overlap. */
  #isCovered(): boolean {
    const [offsets, sizes] = [this.#offsets, this.#sizes];
    const order = Array.from({ length: this.#count }, (_none, i) => i).sort(
      (a, b) => (offsets[a] ?? 0) - (offsets[b] ?? 0) || (sizes[a] ?? 0) - (sizes[b] ?? 0),
    );
    let end = 0;
    for (const i of order) {
      if (offsets[i] !== end) return false;
      end += sizes[i] ?? 0;
    }
    this.#end = end;
    return true;
  }

  #growSides(): void {
    const larger = new Float64Array(this.#sides.length * 2);
    larger.set(this.#sides);
    this.#sides = larger;
  }

  #grow(): void {
    const capacity = this.#ids.length * 2;
    const copy = <A extends Int32Array | Uint8Array | Float64Array>(from: A, to: A): A => {
      to.set(from);
      return to;
    };
    this.#ids = copy(this.#ids, new Int32Array(capacity));
    this.#dtypes = copy(this.#dtypes, new Uint8Array(capacity));
    this.#sideStarts = copy(this.#sideStarts, new Int32Array(capacity + 1));
    this.#offsets = copy(this.#offsets, new Float64Array(capacity));
    this.#sizes = copy(this.#sizes, new Float64Array(capacity));
  }
}

/**
 * Whether four bytes are printable ASCII without quotes and backslashes: a subtraction borrows, or an addition carries, only
 * where one of them is not.
 */
function isPlain(four: number): boolean {
  const quotes = four ^ 0x22222222;
  const slashes = four ^ 0x5c5c5c5c;
  const marks = (four - 0x20202020) | (quotes - 0x01010101) | (slashes - 0x01010101) | (four + 0x01010101) | four;
  return (marks & 0x80808080) === 0;
}

/** Whether digits are a number as JSON has it, small enough to be exact. */
function isNumber(bytes: Buffer, start: number, end: number): boolean {
  const digits = end - start;
  return digits === 1 || (digits > 1 && digits <= SAFE_DIGITS && bytes[start] !== ZERO);
}
