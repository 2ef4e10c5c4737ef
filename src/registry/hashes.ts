/**
 * Hashes of a model file, all from one reading.
 *
 * AutoV1 is the first model hash of early 2023, of 64 KiB at 1 MiB (for smaller files the hash of nothing); AutoV2 the
 * beginning of sha256; AutoV3 the beginning of the hash of the tensor data, which survives edits of the metadata. Runs in
 * a thread: see whole-files/.
 */
import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { openRegularFile } from '../common/regular-file.js';

export interface ModelHashes {
  readonly sha256: string;
  readonly autoV1: string;
  readonly autoV2: string;
  /** Upper case, as Civitai shows it. */
  readonly crc32: string;
  readonly blake3: string;
  /** sha256 of what follows the header; safetensors files only. */
  readonly tensorData?: string;
  readonly autoV3?: string;
}

const AUTO_V1_START = 0x100000;
const AUTO_V1_BYTES = 0x10000;
const CHUNK_BYTES = 4 * 2 ** 20;

export interface HashOptions {
  /** Where tensor data begins, for safetensors files. */
  readonly dataStart?: number | undefined;
  /** Called after each chunk of 4 MiB; the next is read when it settles. What it throws ends the reading. */
  readonly onChunk?: (doneBytes: number) => void | Promise<void>;
}

/** Reads the whole file, once. */
export async function hashModel(path: string, { dataStart, onChunk }: HashOptions = {}): Promise<ModelHashes> {
  const whole = createHash('sha256');
  const early = createHash('sha256');
  const tensors = dataStart === undefined ? undefined : createHash('sha256');
  // Loaded when needed: a large module, and the threads of a scan load this room too.
  const { createBLAKE3 } = await import('hash-wasm');
  const blake = await createBLAKE3();
  blake.init();
  let checksum = 0;
  const file = await openRegularFile(path);
  try {
    const buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES);
    for (let at = 0; ;) {
      const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
      if (bytesRead === 0) break;
      const chunk = buffer.subarray(0, bytesRead);
      whole.update(chunk);
      blake.update(chunk);
      checksum = crc32(chunk, checksum);
      early.update(overlap(chunk, at, AUTO_V1_START, AUTO_V1_START + AUTO_V1_BYTES));
      if (dataStart !== undefined) tensors?.update(overlap(chunk, at, dataStart, Infinity));
      at += bytesRead;
      await onChunk?.(at);
    }
  } finally {
    await file.close();
  }
  const sha256 = whole.digest('hex');
  const tensorData = tensors?.digest('hex');
  return {
    sha256,
    autoV1: early.digest('hex').slice(0, 8),
    autoV2: sha256.slice(0, 10),
    crc32: checksum.toString(16).padStart(8, '0').toUpperCase(),
    blake3: blake.digest('hex'),
    ...(tensorData === undefined ? {} : { tensorData, autoV3: tensorData.slice(0, 12) }),
  };
}

/** The part of a chunk that lies between two positions of the file. */
function overlap(chunk: Buffer, at: number, start: number, end: number): Buffer {
  return chunk.subarray(Math.max(0, Math.min(start - at, chunk.length)), Math.max(0, Math.min(end - at, chunk.length)));
}
