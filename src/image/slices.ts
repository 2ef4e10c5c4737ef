/** Long work on pixels in short steps, so that the server's thread stays free for its clients. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { throwIfAborted } from '../common/abort.js';

/** How long the thread may be held at a time. */
const MAX_STEP_MS = 8;
/** Values computed between two looks at the clock. */
const VALUES_PER_LOOK = 16_384;

/**
 * Calls `work` for consecutive ranges until `count` units are done.
 *
 * @param valuesPerUnit How many values one unit stands for: bounds the ranges.
 * @throws {BridgeError} `CANCELLED` when the signal fires between two steps.
 */
export async function inSlices(
  count: number,
  valuesPerUnit: number,
  work: (begin: number, end: number) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const units = Math.max(1, Math.floor(VALUES_PER_LOOK / Math.max(1, valuesPerUnit)));
  let since = performance.now();
  for (let begin = 0; begin < count; begin += units) {
    work(begin, Math.min(count, begin + units));
    if (performance.now() - since < MAX_STEP_MS) continue;
    await nextTurn();
    throwIfAborted(signal);
    since = performance.now();
  }
}
