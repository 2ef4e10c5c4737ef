/**
 * ZIP archives, as far as PyTorch's files need them: the directory, and where stored entries lie in the file.
 *
 * The directory decides; every length and offset in it is checked against the file, and every entry that is used against
 * its own header. Checksums are not compared: a model file has no other guard either, and reading gigabytes to compare
 * them would cost more than using them.
 *
 * Source: PKWARE's APPNOTE, sections 4.3 to 4.5 (ZIP64).
 */
import type { FileHandle } from 'node:fs/promises';
import { inflateRawSync } from 'node:zlib';
import { readRange } from '../file-access.js';

/** Why an archive is refused, without the file's name: the caller adds it. */
export class ArchiveProblem extends Error {}

export interface ZipEntry {
  readonly name: string;
  readonly method: number;
  readonly isEncrypted: boolean;
  /** Bytes in the file. */
  readonly storedBytes: number;
  /** Bytes of the contents. */
  readonly sizeBytes: number;
  /** Position of the entry's own header. */
  readonly headerOffset: number;
}

export interface ZipDirectory {
  readonly entries: ReadonlyMap<string, ZipEntry>;
  /** Entries lie before this position. */
  readonly position: number;
}

const END = 0x06054b50;
const END_BYTES = 22;
const MAX_COMMENT_BYTES = 65_535;
const END64 = 0x06064b50;
const END64_BYTES = 56;
const LOCATOR = 0x07064b50;
const LOCATOR_BYTES = 20;
const CENTRAL = 0x02014b50;
const CENTRAL_BYTES = 46;
const LOCAL = 0x04034b50;
const LOCAL_BYTES = 30;
const EXTRA_ZIP64 = 1;
const FULL32 = 0xffffffff;
const FULL16 = 0xffff;
export const STORED = 0;
const DEFLATED = 8;
/** A checkpoint has one entry per tensor. */
const MAX_ENTRIES = 1_000_000;
const MAX_DIRECTORY_BYTES = 128 * 2 ** 20;
const MAX_NAME_BYTES = 1024;

/** @throws {ArchiveProblem} */
export async function readZipDirectory(file: FileHandle, fileBytes: number, label: string): Promise<ZipDirectory> {
  const { position, length, count } = await findDirectory(file, fileBytes, label);
  if (count > MAX_ENTRIES) throw new ArchiveProblem(`its directory claims ${count} entries`);
  if (length > MAX_DIRECTORY_BYTES) throw new ArchiveProblem(`its directory claims ${length} bytes`);
  const directory = bufferOf(await readRange(file, position, length, label));
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  for (let i = 0; i < count; i += 1) {
    if (at + CENTRAL_BYTES > length || directory.readUInt32LE(at) !== CENTRAL) {
      throw new ArchiveProblem(`entry ${i} of its directory is malformed`);
    }
    const { entry, end } = readCentral(directory, at);
    if (entries.has(entry.name)) throw new ArchiveProblem(`its directory has ${quote(entry.name)} twice`);
    if (entry.headerOffset + LOCAL_BYTES + Buffer.byteLength(entry.name) + entry.storedBytes > position) {
      throw new ArchiveProblem(`entry ${quote(entry.name)} lies beyond its data`);
    }
    entries.set(entry.name, entry);
    at = end;
  }
  if (at !== length) throw new ArchiveProblem(`its directory has ${length} bytes, its entries take ${at}`);
  return { entries, position };
}

/** Position of the first byte of an entry that is stored as it is. @throws {ArchiveProblem} */
export async function locateEntry(
  file: FileHandle,
  { name, method, isEncrypted, sizeBytes, storedBytes, headerOffset }: ZipEntry,
  directory: ZipDirectory,
  label: string,
): Promise<number> {
  const nameBytes = Buffer.byteLength(name);
  const header = bufferOf(await readRange(file, headerOffset, LOCAL_BYTES + nameBytes, label));
  const isSame =
    header.readUInt32LE(0) === LOCAL &&
    header.readUInt16LE(8) === method &&
    header.readUInt16LE(26) === nameBytes &&
    header.toString('utf8', LOCAL_BYTES) === name;
  if (!isSame) throw new ArchiveProblem(`entry ${quote(name)} is not where its directory says`);
  if (isEncrypted) throw new ArchiveProblem(`entry ${quote(name)} is encrypted`);
  if (method === STORED && storedBytes !== sizeBytes) {
    throw new ArchiveProblem(`entry ${quote(name)} takes ${storedBytes} bytes for ${sizeBytes}`);
  }
  const begin = headerOffset + LOCAL_BYTES + nameBytes + header.readUInt16LE(28);
  if (begin + storedBytes > directory.position) throw new ArchiveProblem(`entry ${quote(name)} lies beyond its data`);
  return begin;
}

/** Contents of a small entry, unpacked if need be. @throws {ArchiveProblem} */
export async function readEntry(
  file: FileHandle,
  entry: ZipEntry,
  directory: ZipDirectory,
  limits: { readonly maxBytes: number; readonly label: string },
): Promise<Uint8Array> {
  const { maxBytes, label } = limits;
  const { name, method, storedBytes, sizeBytes } = entry;
  if (Math.max(storedBytes, sizeBytes) > maxBytes) {
    throw new ArchiveProblem(`entry ${quote(name)} has ${sizeBytes} bytes; the limit is ${maxBytes}`);
  }
  const begin = await locateEntry(file, entry, directory, label);
  const stored = await readRange(file, begin, storedBytes, label);
  if (method === STORED) return stored;
  if (method !== DEFLATED) throw new ArchiveProblem(`entry ${quote(name)} is packed by the method ${method}`);
  try {
    const unpacked = inflateRawSync(stored, { maxOutputLength: Math.max(1, sizeBytes) });
    if (unpacked.length !== sizeBytes) throw new ArchiveProblem(`entry ${quote(name)} unpacks to another size`);
    return unpacked;
  } catch (error) {
    if (error instanceof ArchiveProblem) throw error;
    throw new ArchiveProblem(`entry ${quote(name)} cannot be unpacked`, { cause: error });
  }
}

interface Place {
  readonly position: number;
  readonly length: number;
  readonly count: number;
}

async function findDirectory(file: FileHandle, fileBytes: number, label: string): Promise<Place> {
  const tailBytes = Math.min(fileBytes, END_BYTES + MAX_COMMENT_BYTES + LOCATOR_BYTES);
  const tail = bufferOf(await readRange(file, fileBytes - tailBytes, tailBytes, label));
  for (let at = tailBytes - END_BYTES; at >= 0; at -= 1) {
    if (tail.readUInt32LE(at) !== END || at + END_BYTES + tail.readUInt16LE(at + 20) !== tailBytes) continue;
    const end = fileBytes - tailBytes + at;
    const hasLocator = at >= LOCATOR_BYTES && tail.readUInt32LE(at - LOCATOR_BYTES) === LOCATOR;
    if (hasLocator) return findDirectory64(file, end - LOCATOR_BYTES, tail.subarray(at - LOCATOR_BYTES), label);
    if (tail.readUInt16LE(at + 4) !== 0 || tail.readUInt16LE(at + 6) !== 0) throw inParts();
    return checkPlace(
      { count: tail.readUInt16LE(at + 10), length: tail.readUInt32LE(at + 12), position: tail.readUInt32LE(at + 16) },
      end,
    );
  }
  throw new ArchiveProblem('it has no directory at its end: a truncated download?');
}

async function findDirectory64(file: FileHandle, limit: number, locator: Buffer, label: string): Promise<Place> {
  const position = count64(locator, 8);
  if (locator.readUInt32LE(4) !== 0 || locator.readUInt32LE(16) > 1) throw inParts();
  if (position + END64_BYTES > limit) throw new ArchiveProblem('its 64-bit directory lies beyond its data');
  const end = bufferOf(await readRange(file, position, END64_BYTES, label));
  if (end.readUInt32LE(0) !== END64) throw new ArchiveProblem('its 64-bit directory is malformed');
  return checkPlace({ count: count64(end, 32), length: count64(end, 40), position: count64(end, 48) }, position);
}

/** The directory must end where its end record begins: otherwise two programs could see two archives in one file. */
function checkPlace(place: Place, end: number): Place {
  if (place.position + place.length !== end) {
    throw new ArchiveProblem('its directory is not where its end says: two files in one, or a truncated download?');
  }
  return place;
}

function readCentral(directory: Buffer, at: number): { entry: ZipEntry; end: number } {
  const nameBytes = directory.readUInt16LE(at + 28);
  const extraBytes = directory.readUInt16LE(at + 30);
  const nameAt = at + CENTRAL_BYTES;
  const extraAt = nameAt + nameBytes;
  const end = extraAt + extraBytes + directory.readUInt16LE(at + 32);
  if (nameBytes > MAX_NAME_BYTES) throw new ArchiveProblem(`it has an entry with a name of ${nameBytes} bytes`);
  if (end > directory.length) throw new ArchiveProblem('its directory ends in the middle of an entry');
  const name = directory.toString('utf8', nameAt, extraAt);
  const wide = new WideFields(directory.subarray(extraAt, extraAt + extraBytes));
  // In this order, and only those that do not fit 32 bits, they are in the ZIP64 field.
  const sizeBytes = wide.take(directory.readUInt32LE(at + 24));
  const storedBytes = wide.take(directory.readUInt32LE(at + 20));
  const headerOffset = wide.take(directory.readUInt32LE(at + 42));
  const disk = directory.readUInt16LE(at + 34);
  if (disk !== 0 && disk !== FULL16) throw inParts();
  const method = directory.readUInt16LE(at + 10);
  const isEncrypted = (directory.readUInt16LE(at + 8) & 1) === 1;
  return { entry: { name, method, isEncrypted, storedBytes, sizeBytes, headerOffset }, end };
}

/** The numbers of an entry that need 64 bits. */
class WideFields {
  readonly #field: Buffer | undefined;
  #at = 0;

  constructor(extra: Buffer) {
    for (let at = 0; at + 4 <= extra.length;) {
      const length = extra.readUInt16LE(at + 2);
      if (extra.readUInt16LE(at) === EXTRA_ZIP64) this.#field ??= extra.subarray(at + 4, at + 4 + length);
      at += 4 + length;
    }
  }

  take(narrow: number): number {
    if (narrow !== FULL32) return narrow;
    if (this.#field === undefined || this.#at + 8 > this.#field.length) {
      throw new ArchiveProblem('it has an entry without its 64-bit size or place');
    }
    this.#at += 8;
    return count64(this.#field, this.#at - 8);
  }
}

function count64(bytes: Buffer, at: number): number {
  const value = bytes.readBigUInt64LE(at);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new ArchiveProblem(`it claims a size or place of ${value}`);
  return Number(value);
}

function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function inParts(): ArchiveProblem {
  return new ArchiveProblem('it is one part of a split archive');
}

function quote(name: string): string {
  return JSON.stringify(name.slice(0, 120));
}
