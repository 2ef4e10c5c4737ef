/**
 * A fast reader of safetensors headers, for reading thousands.
 *
 * LoRAs of one trainer often repeat the same table of tensors byte for byte: a table that was seen lately is recognised by
 * comparison and not read again. Other tables are read by table-reader.ts. Whatever that finds unusual is left to
 * header.ts, which decides and words the error, so that both accept the same files.
 */
import { TensorTable } from '../tensor-table.js';
import { parseHeader, parseMetadata } from './header.js';
import { CLOSE_OBJECT, COLON, COMMA, OPEN_OBJECT, QUOTE, endOfTexts, skipBlanks } from './json-bytes.js';
import { TableReader, type Range } from './table-reader.js';

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
  /** Metadata that stands among the tensors. */
  readonly metadata: Range | undefined;
}

/** Tables that are remembered: a folder rarely holds more kinds side by side. */
const MAX_LAYOUTS = 64;
const MAX_LAYOUT_BYTES = 8 * 2 ** 20;
const MAX_SIGHTINGS = 4096;
/** Enough of a table's end to tell ranks apart: the last offsets are there. */
const FINGERPRINT_BYTES = 64;

const METADATA_KEY = Buffer.from('"__metadata__"');

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
      const bytes = json.subarray(split.tableStart);
      const layout = this.#layoutOf(bytes, fileBytes - dataStart);
      // Metadata that is given twice is left to the careful reader.
      if (layout !== undefined && (split.metadata === undefined || layout.metadata === undefined)) {
        const { start, end } = layout.metadata ?? { start: 0, end: 0 };
        const texts = split.metadata ?? (end === 0 ? undefined : bytes.subarray(start, end));
        const metadata = texts === undefined ? new Map<string, string>() : parseMetadata(texts);
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
    const { metadata } = this.#reader;
    // Remembered when it comes a second time: most tables that come once never come again.
    if (!this.#sightings.delete(key)) {
      if (this.#sightings.size >= MAX_SIGHTINGS) this.#sightings.clear();
      this.#sightings.add(key);
      return { digest, dataBytes, metadata };
    }
    const layout = { bytes: Buffer.from(bytes), digest, dataBytes, metadata };
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

/** Entries that describe tensors, as they are written: a name that is given twice counts twice. */
function countEntries(json: Buffer): number {
  let count = 0;
  for (let at = json.indexOf('"data_offsets"'); at !== -1; at = json.indexOf('"data_offsets"', at + 1)) count += 1;
  return count;
}
