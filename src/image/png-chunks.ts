/** Text chunks of PNG files, moved as they are: where ComfyUI keeps the prompt and the workflow of a picture. */

const SIGNATURE = Buffer.from('89504e470d0a1a0a', 'hex');
const HEADER_END = 33; // 8 of signature, 25 of the IHDR chunk
const CHUNK_OVERHEAD = 12; // length, type, checksum
const TEXT_TYPES = new Set(['tEXt', 'iTXt', 'zTXt']);
/** A workflow is far below this; anything larger is not carried along. */
const MAX_TEXT_BYTES = 16 * 1024 * 1024;

/** The text chunks of a file, whole; none of a file that is no PNG. Stops where the file is damaged. */
export function readPngTextChunks(file: Uint8Array): Buffer[] {
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.byteLength);
  if (!bytes.subarray(0, SIGNATURE.length).equals(SIGNATURE)) return [];
  const chunks: Buffer[] = [];
  let total = 0;
  for (let at = SIGNATURE.length; at + CHUNK_OVERHEAD <= bytes.length;) {
    const end = at + CHUNK_OVERHEAD + bytes.readUInt32BE(at);
    if (end > bytes.length) break;
    if (TEXT_TYPES.has(bytes.toString('latin1', at + 4, at + 8)) && total + (end - at) <= MAX_TEXT_BYTES) {
      chunks.push(bytes.subarray(at, end));
      total += end - at;
    }
    at = end;
  }
  return chunks;
}

/** A PNG with chunks put behind its header. */
export function insertPngChunks(png: Buffer, chunks: readonly Buffer[]): Buffer {
  if (chunks.length === 0) return png;
  return Buffer.concat([png.subarray(0, HEADER_END), ...chunks, png.subarray(HEADER_END)]);
}
