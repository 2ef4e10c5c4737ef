/**
 * EXIF orientation of frames in memory; single pictures are turned while they are decoded.
 *
 * Source: EXIF 2.32, tag 0x0112.
 */
import { inSlices } from './slices.js';

interface Oriented {
  readonly count: number;
  readonly width: number;
  readonly height: number;
  readonly channels: number;
  readonly data: Uint8Array;
}

/** Whether rows and columns are exchanged first, and which axes of the result are then mirrored. */
const STEPS: Readonly<Record<number, readonly [swap: boolean, mirrorX: boolean, mirrorY: boolean]>> = {
  2: [false, true, false],
  3: [false, true, true],
  4: [false, false, true],
  5: [true, false, false],
  6: [true, true, false],
  7: [true, true, true],
  8: [true, false, true],
};

/** Frames the right way up; the same object where nothing is to be turned. */
export async function orientFrames<F extends Oriented>(
  frames: F,
  orientation: number,
  signal: AbortSignal | undefined,
): Promise<F> {
  const steps = STEPS[orientation];
  if (steps === undefined) return frames;
  const [swap, mirrorX, mirrorY] = steps;
  const { count, channels, data } = frames;
  const width = swap ? frames.height : frames.width;
  const height = swap ? frames.width : frames.height;
  const out = new Uint8Array(count * width * height * channels);
  const turnRow = (row: number): void => {
    const frame = Math.floor(row / height);
    const y = mirrorY ? height - 1 - (row % height) : row % height;
    for (let column = 0; column < width; column += 1) {
      const x = mirrorX ? width - 1 - column : column;
      const [fromX, fromY] = swap ? [y, x] : [x, y];
      const from = ((frame * frames.height + fromY) * frames.width + fromX) * channels;
      const to = (row * width + column) * channels;
      for (let channel = 0; channel < channels; channel += 1) out[to + channel] = data[from + channel] ?? 0;
    }
  };
  const turn = (begin: number, end: number): void => {
    for (let row = begin; row < end; row += 1) turnRow(row);
  };
  await inSlices(count * height, width * channels, turn, signal);
  return { ...frames, width, height, data: out };
}
