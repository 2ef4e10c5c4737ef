/** What the decoder does not say of a PNG. Source: the PNG specification, third edition (APNG). */

/** Up to `length` bytes from a position on; fewer at the end. */
export type ByteReader = (position: number, length: number) => Promise<Uint8Array>;

const SIGNATURE_BYTES = 8;
/** Chunks before the pixels; a file with more is taken as it is decoded. */
const MAX_CHUNKS = 4096;

/** Whether a PNG has frames: its `acTL` chunk, which comes before the pixels, counts more than one. */
export async function isAnimatedPng(read: ByteReader): Promise<boolean> {
  let position = SIGNATURE_BYTES;
  for (let chunk = 0; chunk < MAX_CHUNKS; chunk += 1) {
    const bytes = await read(position, 12);
    if (bytes.byteLength < 12) return false;
    const head = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const type = String.fromCharCode(...bytes.subarray(4, 8));
    if (type === 'acTL') return head.getUint32(8) > 1;
    if (type === 'IDAT' || type === 'IEND') return false;
    position += 12 + head.getUint32(0);
  }
  return false;
}
