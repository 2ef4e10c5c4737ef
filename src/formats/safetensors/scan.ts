/**
 * A fast reader of safetensors headers, for reading thousands.
 *
 * It understands the form that trainers and libraries write (no escapes in names, three fields per tensor, data in header
 * order) and checks it as strictly as header.ts. Whatever is unusual is left to header.ts, which decides and words the
 * error, so that both readers accept the same files.
 *
 * LoRAs of one trainer repeat the same table of tensors byte for byte: a table that was seen lately is recognised by
 * comparison and not read again.
 */
import { isAscii } from 'node:buffer';
import { TensorTable } from '../tensor-table.js';
import { DTYPE_BITS, parseHeader, parseMetadata } from './header.js';

export interface ScannedHeader<T> {
  /** What the table of tensors was digested into. */
  readonly digest: T;
  readonly metadata: ReadonlyMap<string, string>;
  readonly hasDuplicateNames: boolean;
}

interface Layout<T> {
  readonly bytes: Buffer;
  readonly digest: T;
  readonly dataBytes: number;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
const OPEN_LIST = 0x5b;
const CLOSE_LIST = 0x5d;
const BLANK = 0x20;
const ZERO = 0x30;
const NINE = 0x39;

const HASH_PRIME = 0x9e3779b1;

const MAX_NAME_BYTES = 4096;
const MAX_RANK = 32;
/** A number of so many digits is surely below 2^53. */
const SAFE_DIGITS = 15;
/** Names that share a place in the table of hashes before the file counts as unusual. */
const MAX_PROBES = 64;
/** Tables that are remembered: a folder rarely holds more kinds side by side. */
const MAX_LAYOUTS = 64;
const MAX_LAYOUT_BYTES = 16 * 2 ** 20;
const MAX_SIGHTINGS = 4096;
/** Enough of a table's end to tell ranks apart: the last offsets are there. */
const FINGERPRINT_BYTES = 64;

/** Four letters as a number, to compare them at once. */
const word = (letters: string): number => Buffer.from(letters).readInt32BE();
const COLON_D = word(':{"d');
const TYPE = word('type');
const E_TEXT = word('e":"');
const COMMA_S = word('","s');
const HAPE = word('hape');
const E_LIST = word('e":[');
const COMMA_DA = word(',"da');
const TA_O = word('ta_o');
const FFSE = word('ffse');
const TS = word('ts":');

const METADATA_KEY = Buffer.from('"__metadata__"');
const DTYPE_KEY = Buffer.from('dtype');
const SHAPE_KEY = Buffer.from('shape');
const OFFSETS_KEY = Buffer.from('data_offsets');
const DTYPE_NAMES = Object.keys(DTYPE_BITS);
const DTYPES = DTYPE_NAMES.map((name) => ({ bytes: Buffer.from(name), bits: DTYPE_BITS[name] ?? 0 }));

/** Reads headers one after the other, each into the digest that its user wants of a table of tensors. */
export class HeaderScanner<T> {
  readonly #digest: (table: TensorTable) => T;
  readonly #reader = new TableReader();
  /** Least recently used first. */
  readonly #layouts = new Map<string, Layout<T>>();
  #layoutBytes = 0;
  readonly #sightings = new Set<string>();

  /** @param digest Pure: called once per distinct table. The table is valid during the call; offsets count from the first data byte. */
  constructor(digest: (table: TensorTable) => T) {
    this.#digest = digest;
  }

  /**
   * @param json The header's bytes, without the length; may be overwritten afterwards.
   * @param dataStart Absolute position of the first data byte.
   * @param fileBytes Size of the whole file.
   * @throws {ModelFormatError} `SAFETENSORS_INVALID`, as parseHeader.
   */
  read(json: Buffer, dataStart: number, fileBytes: number, label: string): ScannedHeader<T> {
    const split = splitMetadata(json);
    if (split !== undefined) {
      const layout = this.#layoutOf(json.subarray(split.tableStart), fileBytes - dataStart);
      if (layout !== undefined) {
        const metadata = split.metadata === undefined ? new Map<string, string>() : parseMetadata(split.metadata);
        if (metadata !== undefined) return { digest: layout.digest, metadata, hasDuplicateNames: false };
      }
    }
    const { tensors, metadata } = parseHeader(json, dataStart, fileBytes, label);
    const entries = [...tensors.values()].map((info) => ({ ...info, offset: info.offset - dataStart }));
    const hasDuplicateNames = countEntries(json) > tensors.size;
    return { digest: this.#digest(TensorTable.fromEntries(entries)), metadata, hasDuplicateNames };
  }

  /** The layout of these bytes; undefined where the careful reader must look, or the data has another length. */
  #layoutOf(bytes: Buffer, dataBytes: number): Omit<Layout<T>, 'bytes'> | undefined {
    const key = `${bytes.length}:${bytes.toString('latin1', Math.max(0, bytes.length - FINGERPRINT_BYTES))}`;
    const known = this.#layouts.get(key);
    if (known?.bytes.equals(bytes) === true) {
      this.#layouts.delete(key);
      this.#layouts.set(key, known);
      return known.dataBytes === dataBytes ? known : undefined;
    }
    const table = this.#reader.read(bytes);
    if (table === undefined || this.#reader.dataBytes !== dataBytes) return undefined;
    const digest = this.#digest(table);
    // Remembered when it comes a second time: most tables that come once never come again.
    if (!this.#sightings.delete(key)) {
      if (this.#sightings.size >= MAX_SIGHTINGS) this.#sightings.clear();
      this.#sightings.add(key);
      return { digest, dataBytes };
    }
    const layout = { bytes: Buffer.from(bytes), digest, dataBytes };
    this.#forget(key);
    this.#layouts.set(key, layout);
    this.#layoutBytes += bytes.length;
    for (const oldest of this.#layouts.keys()) {
      if (this.#layouts.size <= MAX_LAYOUTS && this.#layoutBytes <= MAX_LAYOUT_BYTES) break;
      this.#forget(oldest);
    }
    return layout;
  }

  #forget(key: string): void {
    this.#layoutBytes -= this.#layouts.get(key)?.bytes.length ?? 0;
    this.#layouts.delete(key);
  }
}

/**
 * Where the metadata object of a header lies, if it comes first, and where the tensors begin; undefined for anything that
 * is not written in the usual way.
 */
function splitMetadata(json: Buffer): { metadata: Buffer | undefined; tableStart: number } | undefined {
  if (json[0] !== OPEN_OBJECT) return undefined;
  let at = skipBlanks(json, 1);
  if (!METADATA_KEY.equals(json.subarray(at, at + METADATA_KEY.length))) return { metadata: undefined, tableStart: at };
  at = skipBlanks(json, at + METADATA_KEY.length);
  if (json[at] !== COLON) return undefined;
  const start = skipBlanks(json, at + 1);
  const end = endOfTexts(json, start);
  if (end === undefined) return undefined;
  at = skipBlanks(json, end);
  if (json[at] === COMMA) {
    at = skipBlanks(json, at + 1);
    if (json[at] !== QUOTE) return undefined;
  } else if (json[at] !== CLOSE_OBJECT) return undefined;
  return { metadata: json.subarray(start, end), tableStart: at };
}

/** Position after an object whose values are all texts; undefined for anything else. */
function endOfTexts(json: Buffer, start: number): number | undefined {
  if (json[start] !== OPEN_OBJECT) return undefined;
  let isText = false;
  for (let at = start + 1; at < json.length; at += 1) {
    const byte = json[at];
    if (byte === QUOTE) isText = !isText;
    else if (isText) at += byte === BACKSLASH ? 1 : 0;
    else if (byte === CLOSE_OBJECT) return at + 1;
    else if (byte === OPEN_OBJECT || byte === OPEN_LIST) return undefined;
  }
  return undefined;
}

function skipBlanks(bytes: Buffer, start: number): number {
  let at = start;
  for (;;) {
    const byte = bytes[at];
    if (byte !== BLANK && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return at;
    at += 1;
  }
}

/** Whether digits are a number as JSON has it, small enough to be exact. */
function isNumber(bytes: Buffer, start: number, end: number): boolean {
  const digits = end - start;
  return digits === 1 || (digits > 1 && digits <= SAFE_DIGITS && bytes[start] !== ZERO);
}

/** One pass over the tensors of a header, into arrays that are used again for the next one. */
class TableReader {
  #bytes: Buffer = Buffer.alloc(0);
  #view: DataView = new DataView(new ArrayBuffer(0));
  #text = '';
  #at = 0;
  #count = 0;
  #capacity = 0;
  #starts = new Int32Array(0);
  #ends = new Int32Array(0);
  #hashes = new Int32Array(0);
  #dtypes = new Uint8Array(0);
  #sideStarts = new Int32Array(1);
  #offsets = new Float64Array(0);
  #sizes = new Float64Array(0);
  #sides = new Float64Array(16);
  #slots = new Int32Array(16);
  #sideCount = 0;
  /** End of the tensor before: data is laid out in header order, without holes. */
  #end = 0;
  /** Most tensors have the dtype of the one before. */
  #lastDtype = 0;

  /** Bytes that the tensors of the last table take. */
  get dataBytes(): number {
    return this.#end;
  }

  /** The table, valid until the next one is read; undefined for what is left to the careful reader. */
  read(bytes: Buffer): TensorTable | undefined {
    // Escapes and letters beyond ASCII are legal, and rare: names can then be cut out of one text.
    if (!isAscii(bytes) || bytes.includes(BACKSLASH)) return undefined;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#text = bytes.toString('latin1');
    this.#at = skipBlanks(bytes, 0);
    this.#count = 0;
    this.#sideCount = 0;
    this.#sideStarts[0] = 0;
    this.#end = 0;
    let next: number | undefined = COMMA;
    if (bytes[this.#at] === CLOSE_OBJECT) {
      next = CLOSE_OBJECT;
      this.#at += 1;
    }
    while (next === COMMA) {
      this.#at = skipBlanks(bytes, this.#at);
      if (this.#count === this.#capacity) this.#grow();
      if (!this.#entry()) return undefined;
      this.#at = skipBlanks(bytes, this.#at);
      next = bytes[this.#at];
      this.#at += 1;
    }
    if (next !== CLOSE_OBJECT || skipBlanks(bytes, this.#at) !== bytes.length) return undefined;
    if (this.#hasDuplicates()) return undefined;
    return new TensorTable({
      count: this.#count,
      text: this.#text,
      starts: this.#starts,
      ends: this.#ends,
      dtypes: this.#dtypes,
      dtypeNames: DTYPE_NAMES,
      sideStarts: this.#sideStarts,
      sides: this.#sides,
      offsets: this.#offsets,
      sizes: this.#sizes,
    });
  }

  #grow(): void {
    const capacity = Math.max(1024, this.#capacity * 2);
    const copy = <A extends Int32Array | Uint8Array | Float64Array>(from: A, to: A): A => {
      to.set(from);
      return to;
    };
    this.#starts = copy(this.#starts, new Int32Array(capacity));
    this.#ends = copy(this.#ends, new Int32Array(capacity));
    this.#hashes = copy(this.#hashes, new Int32Array(capacity));
    this.#dtypes = copy(this.#dtypes, new Uint8Array(capacity));
    this.#sideStarts = copy(this.#sideStarts, new Int32Array(capacity + 1));
    this.#offsets = copy(this.#offsets, new Float64Array(capacity));
    this.#sizes = copy(this.#sizes, new Float64Array(capacity));
    this.#capacity = capacity;
  }

  /** `"name":{"dtype":"F16","shape":[4,768],"data_offsets":[0,6144]}`, the fields in any order. */
  #entry(): boolean {
    const bytes = this.#bytes;
    const index = this.#count;
    const start = this.#at + 1;
    const stop = bytes[start - 1] === QUOTE ? this.#text.indexOf('"', start) : -1;
    if (stop === -1 || stop - start > MAX_NAME_BYTES) return false;
    this.#starts[index] = start;
    this.#ends[index] = stop;
    if (!this.#hashName(index, start, stop)) return false;
    this.#at = stop + 1;
    return this.#usualFields(index) || this.#anyFields(index);
  }

  /** The fields as the reference library writes them: this order, no blanks. False, and nothing passed, for others. */
  #usualFields(index: number): boolean {
    const bytes = this.#bytes;
    const view = this.#view;
    let at = this.#at;
    // Room for the longest beginning and end of an entry; the last ones of a file may take the other way.
    if (at + 64 > bytes.length) return false;
    if (view.getInt32(at) !== COLON_D || view.getInt32(at + 4) !== TYPE || view.getInt32(at + 7) !== E_TEXT)
      return false;
    at += 11;
    const dtype = DTYPES[this.#lastDtype];
    if (dtype === undefined) return false;
    for (let i = 0; i < dtype.bytes.length; i += 1) if (bytes[at + i] !== dtype.bytes[i]) return false;
    at += dtype.bytes.length;
    if (view.getInt32(at) !== COMMA_S || view.getInt32(at + 4) !== HAPE || view.getInt32(at + 7) !== E_LIST)
      return false;
    at += 11;
    const first = this.#sideCount;
    let elements = 1;
    while (bytes[at] !== CLOSE_LIST) {
      const start = at;
      let value = 0;
      let byte = bytes[at] ?? 0;
      for (; byte >= ZERO && byte <= NINE; byte = bytes[at] ?? 0) {
        value = value * 10 + byte - ZERO;
        at += 1;
      }
      if (!isNumber(bytes, start, at) || this.#sideCount - first === MAX_RANK) return this.#giveUp(first);
      this.#append(value);
      elements *= value;
      if (byte === COMMA && bytes[at + 1] !== CLOSE_LIST) at += 1;
      else if (byte !== CLOSE_LIST) return this.#giveUp(first);
    }
    if (at + 64 > bytes.length) return this.#giveUp(first);
    if (view.getInt32(at + 1) !== COMMA_DA || view.getInt32(at + 5) !== TA_O || view.getInt32(at + 9) !== FFSE)
      return this.#giveUp(first);
    if (view.getInt32(at + 13) !== TS || bytes[at + 17] !== OPEN_LIST) return this.#giveUp(first);
    at += 18;
    let start = at;
    let begin = 0;
    let byte = bytes[at] ?? 0;
    for (; byte >= ZERO && byte <= NINE; byte = bytes[at] ?? 0) {
      begin = begin * 10 + byte - ZERO;
      at += 1;
    }
    if (byte !== COMMA || !isNumber(bytes, start, at)) return this.#giveUp(first);
    at += 1;
    start = at;
    let end = 0;
    byte = bytes[at] ?? 0;
    for (; byte >= ZERO && byte <= NINE; byte = bytes[at] ?? 0) {
      end = end * 10 + byte - ZERO;
      at += 1;
    }
    if (byte !== CLOSE_LIST || bytes[at + 1] !== CLOSE_OBJECT || !isNumber(bytes, start, at))
      return this.#giveUp(first);
    if (!this.#accept(index, this.#lastDtype, elements, begin, end)) return this.#giveUp(first);
    this.#at = at + 2;
    return true;
  }

  #giveUp(sideCount: number): false {
    this.#sideCount = sideCount;
    return false;
  }

  /** Keeps an entry whose data follows the one before and has the size that its shape asks for. */
  #accept(index: number, code: number, elements: number, begin: number, end: number): boolean {
    const sizeBits = elements * (DTYPES[code]?.bits ?? 0);
    if (begin !== this.#end || end < begin || !Number.isSafeInteger(sizeBits) || sizeBits !== (end - begin) * 8)
      return false;
    this.#dtypes[index] = code;
    this.#offsets[index] = begin;
    this.#sizes[index] = end - begin;
    this.#end = end;
    this.#count = index + 1;
    this.#sideStarts[index + 1] = this.#sideCount;
    return true;
  }

  /** The fields in any order, with blanks between them. */
  #anyFields(index: number): boolean {
    const bytes = this.#bytes;
    if (!this.#punctuation(COLON) || !this.#punctuation(OPEN_OBJECT)) return false;
    let code = -1;
    let begin = -1;
    let end = -1;
    let elements = -1;
    for (let field = 0; field < 3; field += 1) {
      if (field > 0 && !this.#punctuation(COMMA)) return false;
      this.#at = skipBlanks(bytes, this.#at);
      if (code < 0 && this.#word(DTYPE_KEY)) {
        if (!this.#punctuation(COLON)) return false;
        this.#at = skipBlanks(bytes, this.#at);
        code = this.#dtype();
        if (code === -1) return false;
      } else if (elements < 0 && this.#word(SHAPE_KEY)) {
        if (!this.#punctuation(COLON)) return false;
        const first = this.#sideCount;
        this.#sideStarts[index] = first;
        if (!this.#list(MAX_RANK)) return false;
        elements = 1;
        for (let at = first; at < this.#sideCount; at += 1) elements *= this.#sides[at] ?? 0;
      } else if (end < 0 && this.#word(OFFSETS_KEY)) {
        if (!this.#punctuation(COLON)) return false;
        const first = this.#sideCount;
        if (!this.#list(2) || this.#sideCount - first !== 2) return false;
        begin = this.#sides[first] ?? -1;
        end = this.#sides[first + 1] ?? -1;
        // The shape may follow; it takes the place of these.
        this.#sideCount = first;
      } else return false;
    }
    if (!this.#punctuation(CLOSE_OBJECT)) return false;
    return this.#accept(index, code, elements, begin, end);
  }

  /** Hashes a name, to find one that occurs twice; false for a name with control characters. */
  #hashName(index: number, start: number, stop: number): boolean {
    let hash = stop - start;
    let at = start;
    for (; at + 4 <= stop; at += 4) {
      const word = this.#view.getInt32(at, true);
      // Any of the four bytes below a blank: the bytes are ASCII, so the subtraction borrows only from such a one.
      if (((word - 0x20202020) & 0x80808080) !== 0) return false;
      hash = Math.imul(hash ^ word, HASH_PRIME);
      hash ^= hash >>> 15;
    }
    for (; at < stop; at += 1) {
      const byte = this.#bytes[at] ?? 0;
      if (byte < BLANK) return false;
      hash = Math.imul(hash ^ byte, HASH_PRIME);
    }
    this.#hashes[index] = hash ^ (hash >>> 13);
    return true;
  }

  /** Passes one character, and blanks before it. */
  #punctuation(wanted: number): boolean {
    let at = this.#at;
    if (this.#bytes[at] !== wanted) {
      at = skipBlanks(this.#bytes, at);
      if (this.#bytes[at] !== wanted) return false;
    }
    this.#at = at + 1;
    return true;
  }

  /** Passes a quoted word if it is the one that is wanted. */
  #word(word: Buffer): boolean {
    const bytes = this.#bytes;
    const at = this.#at;
    if (bytes[at] !== QUOTE || bytes[at + 1 + word.length] !== QUOTE) return false;
    for (let i = 0; i < word.length; i += 1) if (bytes[at + 1 + i] !== word[i]) return false;
    this.#at = at + 2 + word.length;
    return true;
  }

  /** Passes the name of a dtype: its code, or -1. */
  #dtype(): number {
    for (let code = 0; code < DTYPES.length; code += 1) {
      const dtype = DTYPES[(code + this.#lastDtype) % DTYPES.length];
      if (dtype !== undefined && this.#word(dtype.bytes)) {
        this.#lastDtype = (code + this.#lastDtype) % DTYPES.length;
        return this.#lastDtype;
      }
    }
    return -1;
  }

  /** Passes a list of whole numbers of at most `most`, which it appends to the sides. */
  #list(most: number): boolean {
    if (!this.#punctuation(OPEN_LIST)) return false;
    const bytes = this.#bytes;
    let at = skipBlanks(bytes, this.#at);
    let next = bytes[at];
    for (let length = 0; next !== CLOSE_LIST; length += 1) {
      if (length === most) return false;
      const start = at;
      let value = 0;
      let byte = bytes[at] ?? 0;
      while (byte >= ZERO && byte <= NINE) {
        value = value * 10 + byte - ZERO;
        at += 1;
        byte = bytes[at] ?? 0;
      }
      if (!isNumber(bytes, start, at)) return false;
      this.#append(value);
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

  #append(side: number): void {
    if (this.#sideCount === this.#sides.length) {
      const larger = new Float64Array(this.#sides.length * 2);
      larger.set(this.#sides);
      this.#sides = larger;
    }
    this.#sides[this.#sideCount] = side;
    this.#sideCount += 1;
  }

  /** Whether a name occurs twice, or so many names share a hash that a careful look is wanted. */
  #hasDuplicates(): boolean {
    let size = this.#slots.length;
    while (size < this.#count * 2) size *= 2;
    if (size === this.#slots.length) this.#slots.fill(0);
    else this.#slots = new Int32Array(size);
    const slots = this.#slots;
    const hashes = this.#hashes;
    for (let i = 0; i < this.#count; i += 1) {
      const hash = hashes[i] ?? 0;
      let slot = hash & (size - 1);
      for (let probes = 0; slots[slot] !== 0; probes += 1) {
        const other = (slots[slot] ?? 1) - 1;
        if (probes === MAX_PROBES || (hashes[other] === hash && this.#isSameName(i, other))) return true;
        slot = (slot + 1) & (size - 1);
      }
      slots[slot] = i + 1;
    }
    return false;
  }

  #isSameName(a: number, b: number): boolean {
    const of = (index: number): Buffer => this.#bytes.subarray(this.#starts[index], this.#ends[index]);
    return of(a).equals(of(b));
  }
}

/** Entries that describe tensors, as they are written: a name that is given twice counts twice. */
function countEntries(json: Buffer): number {
  let count = 0;
  for (let at = json.indexOf('"data_offsets"'); at !== -1; at = json.indexOf('"data_offsets"', at + 1)) count += 1;
  return count;
}
