/**
 * Workflows as people have them: JSON files, and pictures that carry one (PNG text chunks, EXIF of WebP).
 *
 * Only what stands before the picture data is read.
 */
import type { FileHandle } from 'node:fs/promises';
import { inflateSync } from 'node:zlib';
import { InvalidRequestError, messageOf } from '../common/errors.js';
import { openRegularFile } from '../common/regular-file.js';
import { parseJson, type JsonValue } from '../protocol/json.js';

const PNG_MAGIC = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
/** A workflow of a thousand nodes has a few megabytes. */
const MAX_WORKFLOW_BYTES = 64 * 2 ** 20;
const MAX_CHUNKS = 10_000;
const ASCII = 2;
/** EXIF tags that ComfyUI writes into: Make and Model, as `workflow:{…}` and `prompt:{…}`. */
const TEXT_TAGS = [0x010f, 0x0110];

/** Texts by name, `workflow` and `prompt` among them, as far as a picture carries them. */
export async function readPictureTexts(path: string): Promise<ReadonlyMap<string, string> | undefined> {
  const file = await openRegularFile(path);
  try {
    const { size } = await file.stat();
    const head = await readAt(file, 0, Math.min(12, size));
    if (head.subarray(0, 8).equals(PNG_MAGIC)) return await readPngTexts(file, size);
    if (head.toString('latin1', 0, 4) === 'RIFF' && head.toString('latin1', 8, 12) === 'WEBP')
      return await readWebpTexts(file, size);
    return undefined;
  } finally {
    await file.close();
  }
}

/**
 * Reads a workflow from a JSON file or a picture. Of a picture that carries both, the user interface's form.
 *
 * @throws {InvalidRequestError} when there is none in it.
 */
export async function readWorkflowFile(path: string): Promise<JsonValue> {
  try {
    const texts = await readPictureTexts(path);
    if (texts !== undefined) {
      const text = texts.get('workflow') ?? texts.get('prompt');
      if (text === undefined) throw new InvalidRequestError(`${path} is a picture without a workflow in it.`);
      return parseJson(text);
    }
    const file = await openRegularFile(path);
    try {
      const { size } = await file.stat();
      if (size > MAX_WORKFLOW_BYTES)
        throw new InvalidRequestError(`${path} is too large for a workflow (${size} bytes).`);
      return parseJson((await readAt(file, 0, size)).toString('utf8'), { label: path });
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof InvalidRequestError) throw error;
    throw new InvalidRequestError(`${path} cannot be read: ${messageOf(error)}.`, { cause: error });
  }
}

async function readPngTexts(file: FileHandle, size: number): Promise<Map<string, string>> {
  const texts = new Map<string, string>();
  for (let at = 8, chunks = 0; at + 12 <= size && chunks < MAX_CHUNKS; chunks += 1) {
    const head = await readAt(file, at, 8);
    const length = head.readUInt32BE(0);
    const type = head.toString('latin1', 4, 8);
    if (type === 'IDAT' || type === 'IEND' || at + 12 + length > size) break;
    if (/^(?:tEXt|iTXt|zTXt)$/.test(type) && length <= MAX_WORKFLOW_BYTES) {
      const entry = textChunk(type, await readAt(file, at + 8, length));
      if (entry !== undefined) texts.set(entry[0], entry[1]);
    }
    at += 12 + length;
  }
  return texts;
}

function textChunk(type: string, data: Buffer): [string, string] | undefined {
  const end = data.indexOf(0);
  if (end === -1) return undefined;
  const name = data.toString('latin1', 0, end);
  const limit = { maxOutputLength: MAX_WORKFLOW_BYTES };
  try {
    if (type === 'tEXt') return [name, data.toString('latin1', end + 1)];
    if (type === 'zTXt') return [name, inflateSync(data.subarray(end + 2), limit).toString('latin1')];
    const isPacked = data[end + 1] === 1;
    const language = data.indexOf(0, end + 3);
    const keyword = data.indexOf(0, language + 1);
    if (language === -1 || keyword === -1) return undefined;
    const text = data.subarray(keyword + 1);
    return [name, (isPacked ? inflateSync(text, limit) : text).toString('utf8')];
  } catch {
    return undefined; // a chunk that does not unpack carries nothing
  }
}

async function readWebpTexts(file: FileHandle, size: number): Promise<Map<string, string>> {
  for (let at = 12, chunks = 0; at + 8 <= size && chunks < MAX_CHUNKS; chunks += 1) {
    const head = await readAt(file, at, 8);
    const length = head.readUInt32LE(4);
    if (head.toString('latin1', 0, 4) === 'EXIF' && length <= MAX_WORKFLOW_BYTES && at + 8 + length <= size) {
      return exifTexts(await readAt(file, at + 8, length));
    }
    at += 8 + length + (length % 2);
  }
  return new Map();
}

/** Texts of the first directory of an EXIF block, `name:text` each. */
function exifTexts(block: Buffer): Map<string, string> {
  const texts = new Map<string, string>();
  const tiff = block.toString('latin1', 0, 6) === 'Exif\0\0' ? block.subarray(6) : block;
  if (tiff.length < 8) return texts;
  const isLittle = tiff.toString('latin1', 0, 2) === 'II';
  const u16 = (at: number): number => (isLittle ? tiff.readUInt16LE(at) : tiff.readUInt16BE(at));
  const u32 = (at: number): number => (isLittle ? tiff.readUInt32LE(at) : tiff.readUInt32BE(at));
  const directory = u32(4);
  if (directory + 2 > tiff.length) return texts;
  for (let i = 0; i < u16(directory); i += 1) {
    const at = directory + 2 + i * 12;
    if (at + 12 > tiff.length) break;
    const [tag, type, count] = [u16(at), u16(at + 2), u32(at + 4)];
    if (type !== ASCII || !TEXT_TAGS.includes(tag)) continue;
    const start = count <= 4 ? at + 8 : u32(at + 8);
    if (start + count > tiff.length) continue;
    const text = tiff.toString('utf8', start, start + count).replace(/\0+$/, '');
    const colon = text.indexOf(':');
    if (colon !== -1) texts.set(text.slice(0, colon), text.slice(colon + 1));
  }
  return texts;
}

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await file.read(buffer, done, length - done, position + done);
    if (bytesRead === 0) throw new Error('the file ends too early');
    done += bytesRead;
  }
  return buffer;
}
