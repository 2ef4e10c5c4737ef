/** Hashing values that are in memory already. */
import { createHash } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';

/** Hashed in one go: some two milliseconds. */
const PIECE_BYTES = 4 * 2 ** 20;

/**
 * SHA-256 of values one after the other, in hexadecimal.
 *
 * On the caller's thread, others having their turn between pieces: Web Crypto copies the values into fresh memory first,
 * which takes longer than hashing them.
 */
export async function sha256Of(...values: readonly Uint8Array[]): Promise<string> {
  const hash = createHash('sha256');
  let room = PIECE_BYTES;
  for (const value of values) {
    for (let done = 0; done < value.length;) {
      if (room === 0) {
        await nextTurn();
        room = PIECE_BYTES;
      }
      const piece = value.subarray(done, done + room);
      hash.update(piece);
      done += piece.length;
      room -= piece.length;
    }
  }
  return hash.digest('hex');
}
