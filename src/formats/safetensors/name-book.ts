/**
 * Names of tensors that were seen in headers, each known by a number.
 *
 * The names of a folder's models repeat, though shapes and offsets differ: a name that is known is recognised by comparing
 * bytes, and what somebody made of it is not made again. With a name the book keeps how its entry began last time, up to
 * the numbers of the shape, and which name came next: a reader that guesses from that is right nearly always.
 *
 * Names are printable ASCII without quotes and backslashes; the reader sees to that.
 */
import type { TensorNames } from '../tensor-table.js';

/** The book is begun anew when it has more than this; the names of one file always fit. */
const MAX_NAMES = 16_384;
const MAX_TEXT_BYTES = 2 * 2 ** 20;
/** Room for what follows a name until the numbers of its shape: `":{"dtype":"F8_E4M3FNUZ","shape":[`, with blanks. */
const MAX_REST_BYTES = 64;
/** Names that share a place in the table of hashes before the file counts as unusual. */
const MAX_PROBES = 64;
const HASH_PRIME = 0x9e3779b1;
const NONE = -1;
const FIRST_CAPACITY = 1024;
const FIRST_BYTES = 1 << 16;

export class NameBook implements TensorNames {
  /** Per name: where its entry's beginning lies in `text`; the name itself is one quote further. */
  starts = new Int32Array(FIRST_CAPACITY);
  /** Per name: bytes of the beginning, from the quote to the opening of the shape; 0 while unknown. */
  beginnings = new Int32Array(FIRST_CAPACITY);
  /** Per name: the dtype that the beginning says. */
  dtypes = new Uint8Array(FIRST_CAPACITY);
  /** Per name: the name that came after it last time, or -1. */
  next = new Int32Array(FIRST_CAPACITY);
  /** Per name: the table that has it, and where. */
  tables = new Int32Array(FIRST_CAPACITY);
  positions = new Int32Array(FIRST_CAPACITY);
  bytes: Buffer = Buffer.alloc(FIRST_BYTES);
  text = new DataView(this.bytes.buffer, this.bytes.byteOffset, FIRST_BYTES);
  #lengths = new Int32Array(FIRST_CAPACITY);
  #hashes = new Int32Array(FIRST_CAPACITY);
  #slots = new Int32Array(FIRST_CAPACITY * 2);
  #names: (string | undefined)[] = [];
  #count = 0;
  #usedBytes = 0;
  #isCrowded = false;
  /** The first name that the current table brought. */
  #firstNew = 0;
  /** Text of the new names, decoded at once, and where it begins in `bytes`. */
  #newText = '';
  #newStart = 0;
  readonly #made = new Map<unknown, unknown[]>();

  /** Makes ready for the next table; begins anew where the book has grown large. Numbers of names are valid until then. */
  tidy(): void {
    this.#firstNew = this.#count;
    this.#newText = '';
    if (this.#count <= MAX_NAMES && this.#usedBytes <= MAX_TEXT_BYTES && !this.#isCrowded) return;
    this.#count = 0;
    this.#firstNew = 0;
    this.#usedBytes = 0;
    this.#isCrowded = false;
    this.#names = [];
    this.#made.clear();
    if (this.starts.length > 2 * MAX_NAMES) this.#resize(FIRST_CAPACITY);
    else this.#slots.fill(0);
    if (this.bytes.length > 4 * MAX_TEXT_BYTES) this.#setBytes(Buffer.alloc(FIRST_BYTES));
  }

  /** The number of a name that lies in `bytes`; a new one if it was not known; -1 where too many share a hash. */
  intern(bytes: Buffer, start: number, end: number, hash: number): number {
    const slots = this.#slots;
    const mask = slots.length - 1;
    const length = end - start;
    let slot = hash & mask;
    for (let probes = 0; slots[slot] !== 0; probes += 1) {
      const id = (slots[slot] ?? 1) - 1;
      if (this.#hashes[id] === hash && this.#lengths[id] === length && this.#isName(id, bytes, start)) return id;
      if (probes === MAX_PROBES) {
        this.#isCrowded = true;
        return NONE;
      }
      slot = (slot + 1) & mask;
    }
    return this.#add(bytes, start, end, hash, slot);
  }

  /** Keeps how the entry of a name begins: the bytes from the name's closing quote up to the numbers of the shape. */
  learn(id: number, bytes: Buffer, start: number, end: number, dtype: number): void {
    if (end - start > MAX_REST_BYTES) return;
    const at = (this.starts[id] ?? 0) + 1 + (this.#lengths[id] ?? 0);
    bytes.copy(this.bytes, at, start, end);
    this.beginnings[id] = 1 + (this.#lengths[id] ?? 0) + end - start;
    this.dtypes[id] = dtype;
  }

  name(id: number): string {
    const known = this.#names[id];
    if (known !== undefined) return known;
    const name = this.#decode(id);
    if (id >= this.#firstNew) return name;
    while (this.#names.length <= id) this.#names.push(undefined);
    this.#names[id] = name;
    return name;
  }

  memo<T extends number | object>(describe: (name: string) => T): (id: number) => T {
    let made = this.#made.get(describe) as (T | undefined)[] | undefined;
    if (made === undefined) this.#made.set(describe, (made = []));
    const values = made;
    return (id) => {
      const known = values[id];
      if (known !== undefined) return known;
      const value = describe(this.#names[id] ?? this.#decode(id));
      // Most names that come once never come again: what is made of them is not kept.
      if (id >= this.#firstNew) return value;
      while (values.length <= id) values.push(undefined);
      values[id] = value;
      return value;
    };
  }

  /** The number of a name; -1 when it is not known. */
  find(name: string): number {
    let hash = 0;
    let i = 0;
    for (; i + 4 <= name.length; i += 4) {
      const [a, b, c, d] = [0, 1, 2, 3].map((k) => name.charCodeAt(i + k)) as [number, number, number, number];
      hash = hashStep(hash, a | (b << 8) | (c << 16) | (d << 24));
    }
    for (; i < name.length; i += 1) hash = hashStep(hash, name.charCodeAt(i));
    const slots = this.#slots;
    const mask = slots.length - 1;
    for (let slot = hash & mask; slots[slot] !== 0; slot = (slot + 1) & mask) {
      const id = (slots[slot] ?? 1) - 1;
      if (this.#hashes[id] === hash && this.#lengths[id] === name.length && this.name(id) === name) return id;
    }
    return NONE;
  }

  #decode(id: number): string {
    const start = (this.starts[id] ?? 0) + 1;
    const end = start + (this.#lengths[id] ?? 0);
    if (id < this.#firstNew) return this.bytes.toString('latin1', start, end);
    // Cutting a name out of a text is cheaper than decoding it, and new names come by the hundred.
    if (this.#newText === '') {
      this.#newStart = this.starts[this.#firstNew] ?? 0;
      this.#newText = this.bytes.toString('latin1', this.#newStart, this.#usedBytes);
    }
    return this.#newText.slice(start - this.#newStart, end - this.#newStart);
  }

  #isName(id: number, bytes: Buffer, start: number): boolean {
    const own = this.bytes;
    const from = (this.starts[id] ?? 0) + 1;
    const length = this.#lengths[id] ?? 0;
    for (let i = 0; i < length; i += 1) if (own[from + i] !== bytes[start + i]) return false;
    return true;
  }

  #add(bytes: Buffer, start: number, end: number, hash: number, slot: number): number {
    const id = this.#count;
    const needed = (end - start + 2 + MAX_REST_BYTES + 7) & ~7;
    if (this.#usedBytes + needed > this.bytes.length) {
      const larger = Buffer.alloc(Math.max(this.bytes.length * 2, this.#usedBytes + needed));
      this.bytes.copy(larger, 0, 0, this.#usedBytes);
      this.#setBytes(larger);
    }
    const at = this.#usedBytes;
    this.#usedBytes += needed;
    if (id === this.starts.length) this.#resize(id * 2);
    this.bytes[at] = 0x22;
    const own = this.bytes;
    for (let i = start; i < end; i += 1) own[at + 1 + i - start] = bytes[i] ?? 0;
    this.starts[id] = at;
    this.beginnings[id] = 0;
    this.next[id] = NONE;
    this.tables[id] = 0;
    this.#lengths[id] = end - start;
    this.#hashes[id] = hash;
    this.#count += 1;
    this.#slots[slot] = id + 1;
    if (this.#count * 2 > this.#slots.length) this.#rehash(this.#slots.length * 2);
    return id;
  }

  #setBytes(bytes: Buffer): void {
    this.bytes = bytes;
    this.text = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  #resize(capacity: number): void {
    const resized = (from: Int32Array): Int32Array<ArrayBuffer> => {
      const to = new Int32Array(capacity);
      to.set(from.subarray(0, Math.min(this.#count, capacity)));
      return to;
    };
    this.starts = resized(this.starts);
    this.beginnings = resized(this.beginnings);
    this.next = resized(this.next);
    this.tables = resized(this.tables);
    this.positions = resized(this.positions);
    this.#lengths = resized(this.#lengths);
    this.#hashes = resized(this.#hashes);
    const dtypes = new Uint8Array(capacity);
    dtypes.set(this.dtypes.subarray(0, Math.min(this.#count, capacity)));
    this.dtypes = dtypes;
    if (this.#count === 0) this.#slots = new Int32Array(capacity * 2);
  }

  #rehash(size: number): void {
    const slots = new Int32Array(size);
    for (let id = 0; id < this.#count; id += 1) {
      let slot = (this.#hashes[id] ?? 0) & (size - 1);
      while (slots[slot] !== 0) slot = (slot + 1) & (size - 1);
      slots[slot] = id + 1;
    }
    this.#slots = slots;
  }
}

/** Four more bytes of a name, the first one lowest; one byte where fewer are left. A hash begins as 0. */
export function hashStep(hash: number, bytes: number): number {
  const mixed = Math.imul(hash ^ bytes, HASH_PRIME);
  return mixed ^ (mixed >>> 15);
}
