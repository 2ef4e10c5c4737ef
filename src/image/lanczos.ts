/**
 * Pillow's Lanczos resampling of 8-bit pictures: windows of three samples, antialiased, in Pillow's fixed-point
 * arithmetic, columns first. Pictures with alpha are weighted by it.
 *
 * Source: Pillow, src/libImaging/Resample.c and Convert.c (formulas restated); test/golden/nodes holds recorded values.
 */
import { inSlices } from './slices.js';

/** Bits behind the point: 32 less 8 of the level less 2 to spare. */
const PRECISION_BITS = 32 - 8 - 2;
const LOBES = 3;

interface Picture {
  readonly width: number;
  readonly height: number;
  readonly channels: number;
  /** u8 levels, interleaved. */
  readonly data: Uint8Array;
}

interface AxisTaps {
  readonly starts: Int32Array;
  readonly counts: Int32Array;
  readonly stride: number;
  /** Fixed-point weights. */
  readonly weights: Int32Array;
}

/** The picture in another size. A size that it has already leaves it as it is. */
export async function resizeLanczos(
  picture: Picture,
  width: number,
  height: number,
  signal?: AbortSignal,
): Promise<Picture> {
  if (picture.width === width && picture.height === height) return picture;
  if (picture.channels !== 4) return resizeBoth(picture, width, height, signal);
  const weighted = { ...picture, data: premultiply(picture.data) };
  const resized = await resizeBoth(weighted, width, height, signal);
  return { ...resized, data: unpremultiply(resized.data) };
}

async function resizeBoth(
  picture: Picture,
  width: number,
  height: number,
  signal: AbortSignal | undefined,
): Promise<Picture> {
  const { channels } = picture;
  let wide = picture;
  if (picture.width !== width) {
    const taps = axisTaps(picture.width, width);
    const data = new Uint8Array(picture.height * width * channels);
    await inSlices(
      picture.height,
      width * channels * taps.stride,
      (begin, end) => {
        for (let y = begin; y < end; y += 1) {
          for (let x = 0; x < width; x += 1) {
            const from = (y * picture.width + (taps.starts[x] ?? 0)) * channels;
            for (let channel = 0; channel < channels; channel += 1)
              data[(y * width + x) * channels + channel] = weigh(picture.data, from + channel, channels, taps, x);
          }
        }
      },
      signal,
    );
    wide = { ...picture, width, data };
  }
  if (picture.height === height) return wide;
  const taps = axisTaps(picture.height, height);
  const line = width * channels;
  const data = new Uint8Array(height * line);
  await inSlices(
    height,
    line * taps.stride,
    (begin, end) => {
      for (let y = begin; y < end; y += 1) {
        const from = (taps.starts[y] ?? 0) * line;
        for (let i = 0; i < line; i += 1) data[y * line + i] = weigh(wide.data, from + i, line, taps, y);
      }
    },
    signal,
  );
  return { ...wide, height, data };
}

/** One output: half a unit first, so that the shift rounds; clipped to a level. */
function weigh(
  data: Uint8Array,
  from: number,
  step: number,
  { stride, counts, weights }: AxisTaps,
  output: number,
): number {
  let sum = 1 << (PRECISION_BITS - 1);
  const count = counts[output] ?? 0;
  for (let i = 0; i < count; i += 1) sum += (data[from + i * step] ?? 0) * (weights[output * stride + i] ?? 0);
  return Math.min(255, Math.max(0, sum >> PRECISION_BITS));
}

function axisTaps(from: number, to: number): AxisTaps {
  const ratio = from / to;
  const scale = Math.max(1, ratio);
  const support = LOBES * scale;
  const stride = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(to);
  const counts = new Int32Array(to);
  const weights = new Int32Array(to * stride);
  const exact = new Float64Array(stride);
  for (let output = 0; output < to; output += 1) {
    const center = (output + 0.5) * ratio;
    const begin = Math.max(0, Math.trunc(center - support + 0.5));
    const count = Math.min(from, Math.trunc(center + support + 0.5)) - begin;
    let total = 0;
    for (let i = 0; i < count; i += 1) {
      const weight = lanczos((i + begin - center + 0.5) * (1 / scale));
      exact[i] = weight;
      total += weight;
    }
    for (let i = 0; i < count; i += 1) {
      const weight = total === 0 ? (exact[i] ?? 0) : (exact[i] ?? 0) / total;
      weights[output * stride + i] = Math.trunc((weight < 0 ? -0.5 : 0.5) + weight * 2 ** PRECISION_BITS);
    }
    starts[output] = begin;
    counts[output] = count;
  }
  return { starts, counts, stride, weights };
}

function lanczos(x: number): number {
  return x >= -LOBES && x < LOBES ? sinc(x) * sinc(x / LOBES) : 0;
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

function premultiply(data: Uint8Array): Uint8Array {
  const out = new Uint8Array(data);
  for (let at = 0; at < data.length; at += 4) {
    const alpha = data[at + 3] ?? 0;
    for (let channel = 0; channel < 3; channel += 1) {
      const product = (data[at + channel] ?? 0) * alpha + 128;
      out[at + channel] = ((product >> 8) + product) >> 8;
    }
  }
  return out;
}

function unpremultiply(data: Uint8Array): Uint8Array {
  const out = new Uint8Array(data);
  for (let at = 0; at < data.length; at += 4) {
    const alpha = data[at + 3] ?? 0;
    if (alpha === 0 || alpha === 255) continue;
    for (let channel = 0; channel < 3; channel += 1)
      out[at + channel] = Math.min(255, Math.trunc((255 * (data[at + channel] ?? 0)) / alpha));
  }
  return out;
}
