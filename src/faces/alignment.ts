/**
 * A face turned upright: five landmarks to their standard places, by shifting, turning and scaling alone.
 *
 * Interpolation follows OpenCV's fixed-point arithmetic, since recognisers are fed by it everywhere else.
 *
 * Source: insightface, `norm_crop` (formulas restated); OpenCV, `warpAffine` and `resize` of 8-bit pictures.
 */
import { u8Tensor, type U8Tensor } from '../tensor/tensor.js';

/** Where eyes, nose and corners of the mouth lie in a crop of 112 pixels. */
const STANDARD_PLACES = [38.2946, 51.6963, 73.5318, 51.5014, 56.0252, 71.7366, 41.5493, 92.3655, 70.7299, 92.2041];
const STANDARD_SIDE = 112;
/** Crops whose side is no multiple of 112 have the face of a 128 pixel crop, with 8 pixels more at the left. */
const WIDE_SIDE = 128;
const WIDE_MARGIN = 8;

/** `[a, b, x, y]`: a point (u, v) goes to (a·u - b·v + x, b·u + a·v + y). */
type Similarity = readonly [number, number, number, number];

/** The least-squares similarity from one list of points to another; x and y in turn. */
export function estimateSimilarity(from: readonly number[], to: readonly number[]): Similarity {
  const count = from.length / 2;
  const mean = (points: readonly number[], axis: number): number =>
    points.reduce((sum, value, i) => (i % 2 === axis ? sum + value : sum), 0) / count;
  const [fx, fy, tx, ty] = [mean(from, 0), mean(from, 1), mean(to, 0), mean(to, 1)];
  let along = 0;
  let across = 0;
  let spread = 0;
  for (let i = 0; i < count; i += 1) {
    const u = (from[2 * i] ?? 0) - fx;
    const v = (from[2 * i + 1] ?? 0) - fy;
    const x = (to[2 * i] ?? 0) - tx;
    const y = (to[2 * i + 1] ?? 0) - ty;
    along += u * x + v * y;
    across += u * y - v * x;
    spread += u * u + v * v;
  }
  const a = spread === 0 ? 0 : along / spread;
  const b = spread === 0 ? 0 : across / spread;
  return [a, b, tx - a * fx + b * fy, ty - b * fx - a * fy];
}

/** The similarity that brings a face's landmarks to their places in a crop of `side` pixels. */
export function cropSimilarity(landmarks: readonly number[], side: number): Similarity {
  const isStandard = side % STANDARD_SIDE === 0;
  const ratio = side / (isStandard ? STANDARD_SIDE : WIDE_SIDE);
  const margin = isStandard ? 0 : WIDE_MARGIN * ratio;
  return estimateSimilarity(
    landmarks,
    STANDARD_PLACES.map((value, i) => value * ratio + (i % 2 === 0 ? margin : 0)),
  );
}

const CHANNELS = 3;
/** OpenCV's: places are rounded to 1/32 of a pixel, weights to 1/2^15. */
const PLACE_STEPS = 32;
const PLACE_BITS = 1024;

/**
 * The aligned crop of a face; black where it reaches beyond the picture.
 *
 * @param picture u8 `[1, H, W, 3]`
 * @returns u8 `[1, side, side, 3]`, or undefined when the landmarks lie in one point.
 */
export function alignFace(picture: U8Tensor, landmarks: readonly number[], side: number): U8Tensor | undefined {
  const [, height = 0, width = 0] = picture.shape;
  const [a, b, x, y] = cropSimilarity(landmarks, side);
  const square = a * a + b * b;
  if (!(square > 0) || !Number.isFinite(square)) return undefined;
  // The inverse: where a pixel of the crop comes from.
  const [ia, ib] = [a / square, -b / square];
  const [ix, iy] = [-(ia * x - ib * y), -(ib * x + ia * y)];
  const out = new Uint8Array(side * side * CHANNELS);
  const round = Math.round;
  for (let row = 0; row < side; row += 1) {
    const rowX = round((-ib * row + ix) * PLACE_BITS) + PLACE_BITS / PLACE_STEPS / 2;
    const rowY = round((ia * row + iy) * PLACE_BITS) + PLACE_BITS / PLACE_STEPS / 2;
    for (let column = 0; column < side; column += 1) {
      const placeX = Math.floor((rowX + round(ia * column * PLACE_BITS)) / PLACE_STEPS);
      const placeY = Math.floor((rowY + round(ib * column * PLACE_BITS)) / PLACE_STEPS);
      const left = Math.floor(placeX / PLACE_STEPS);
      const top = Math.floor(placeY / PLACE_STEPS);
      const across = (placeX - left * PLACE_STEPS) / PLACE_STEPS;
      const down = (placeY - top * PLACE_STEPS) / PLACE_STEPS;
      const target = (row * side + column) * CHANNELS;
      for (let channel = 0; channel < CHANNELS; channel += 1) {
        const at = (line: number, place: number): number =>
          line < 0 || place < 0 || line >= height || place >= width
            ? 0
            : (picture.data[(line * width + place) * CHANNELS + channel] ?? 0);
        const upper = (1 - across) * at(top, left) + across * at(top, left + 1);
        const lower = (1 - across) * at(top + 1, left) + across * at(top + 1, left + 1);
        out[target + channel] = Math.floor((1 - down) * upper + down * lower + 0.5);
      }
    }
  }
  return u8Tensor([1, side, side, CHANNELS], out);
}

/** A picture scaled as OpenCV's `INTER_LINEAR` scales 8-bit pictures: half-pixel centres, edges repeated, no antialias. */
export function resizeLinear(picture: U8Tensor, toHeight: number, toWidth: number): U8Tensor {
  const [, height = 0, width = 0] = picture.shape;
  if (height === toHeight && width === toWidth) return picture;
  const columns = linearTaps(width, toWidth);
  const { data } = picture;
  const out = new Uint8Array(toHeight * toWidth * CHANNELS);
  let position = 0;
  for (const { low: top, high: bottom, share: down } of linearTaps(height, toHeight)) {
    const up = WEIGHT_STEPS - down;
    for (const { low: left, high: right, share: across } of columns) {
      const back = WEIGHT_STEPS - across;
      const upperLeft = (top * width + left) * CHANNELS;
      const upperRight = (top * width + right) * CHANNELS;
      const lowerLeft = (bottom * width + left) * CHANNELS;
      const lowerRight = (bottom * width + right) * CHANNELS;
      for (let channel = 0; channel < CHANNELS; channel += 1) {
        const upper = (data[upperLeft + channel] ?? 0) * back + (data[upperRight + channel] ?? 0) * across;
        const lower = (data[lowerLeft + channel] ?? 0) * back + (data[lowerRight + channel] ?? 0) * across;
        const mixed = ((up * (upper >> 4)) >> 16) + ((down * (lower >> 4)) >> 16);
        out[position] = (mixed + 2) >> 2;
        position += 1;
      }
    }
  }
  return u8Tensor([1, toHeight, toWidth, CHANNELS], out);
}

/** OpenCV's weights of 8-bit pictures have eleven bits. */
const WEIGHT_STEPS = 2048;

function linearTaps(from: number, to: number): { low: number; high: number; share: number }[] {
  const scale = from / to;
  return Array.from({ length: to }, (_none, i) => {
    const place = scale * (i + 0.5) - 0.5;
    const low = Math.floor(place);
    if (low < 0) return { low: 0, high: 0, share: 0 };
    if (low >= from - 1) return { low: from - 1, high: from - 1, share: 0 };
    return { low, high: low + 1, share: Math.round((place - low) * WEIGHT_STEPS) };
  });
}
