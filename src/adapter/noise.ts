/**
 * Pictures of noise: what an adapter should steer away from, in place of black.
 *
 * The kinds and their formulas are those of IPAdapter_plus's noise node. Its random numbers are PyTorch's and cannot be
 * had here: the same picture gives the same noise every time, but not that node's noise.
 */
import { f32Tensor, type F32Tensor } from '../tensor/tensor.js';

export const NOISE_KINDS = ['fade', 'dissolve', 'gaussian', 'shuffle'] as const;
type NoiseKind = (typeof NOISE_KINDS)[number];

export interface NoiseOptions {
  readonly kind: NoiseKind;
  /** 0 is the picture, 1 all noise. */
  readonly strength: number;
  /** Width of the blur in pixels, 0 to 32; 0 leaves it out. */
  readonly blur: number;
}

const CHANNELS = 3;
const MAX_SEED = 1_000_000_007;
/** How far `shuffle` throws pixels about, in pixels. */
const SHUFFLE_REACH = 75;
const SHUFFLE_SMOOTHNESS = 3.5;
const SHUFFLE_SHARE = 0.75;

interface Random {
  /** In 0..1. */
  uniform(): number;
  /** Mean 0, deviation 1. */
  normal(): number;
}

/**
 * @param picture f32 `[B, S, S, 3]` in 0..1.
 * @returns f32 of the same shape, in 0..1.
 */
export function makeNoise(picture: F32Tensor, { kind, strength, blur }: NoiseOptions): F32Tensor {
  const random = seededRandom(Math.floor(picture.data.reduce((sum, value) => sum + value, 0)) % MAX_SEED);
  const noisy = clamp(disturb(picture, kind, strength, random));
  if (blur < 1) return noisy;
  const size = Math.floor(blur) + (Math.floor(blur) % 2 === 0 ? 1 : 0);
  return blurred(noisy, gaussianKernel(size, 0.3 * ((size - 1) * 0.5 - 1) + 0.8));
}

function disturb(picture: F32Tensor, kind: NoiseKind, strength: number, random: Random): F32Tensor {
  switch (kind) {
    case 'fade':
      return mapped(picture, (value) => value * (1 - strength) + random.uniform() * strength);
    case 'dissolve':
      return mapped(picture, (value) => (random.uniform() < strength ? random.uniform() : value));
    case 'gaussian':
      return mapped(picture, (value) => value + random.normal() * strength);
    case 'shuffle':
      return mapped(turned(thrownAbout(picture, (1 - strength) * SHUFFLE_SMOOTHNESS, random)), (value) => {
        const noise = random.normal() * strength * SHUFFLE_SHARE;
        return value * (1 - noise) + noise;
      });
  }
}

function mapped({ shape, data }: F32Tensor, change: (value: number) => number): F32Tensor {
  return f32Tensor(shape, data.map(change));
}

function clamp(picture: F32Tensor): F32Tensor {
  return mapped(picture, (value) => Math.min(1, Math.max(0, value)));
}

/** Upside down and mirrored: turned by half a circle. */
function turned({ shape, data }: F32Tensor): F32Tensor {
  const [batch = 0, height = 0, width = 0] = shape;
  const out = new Float32Array(data.length);
  const pixels = height * width;
  for (let image = 0; image < batch; image += 1) {
    for (let pixel = 0; pixel < pixels; pixel += 1) {
      const from = (image * pixels + pixels - 1 - pixel) * CHANNELS;
      out.set(data.subarray(from, from + CHANNELS), (image * pixels + pixel) * CHANNELS);
    }
  }
  return f32Tensor(shape, out);
}

/** Every pixel from a random place near its own, smoothed; black from outside. */
function thrownAbout(picture: F32Tensor, sigma: number, random: Random): F32Tensor {
  const [batch = 0, height = 0, width = 0] = picture.shape;
  const field = f32Tensor(
    [1, height, width, 2],
    Float32Array.from({ length: height * width * 2 }, () => 2 * random.uniform() - 1),
  );
  const size = Math.floor(8 * sigma + 1);
  const shifts = sigma > 0 ? blurred(field, gaussianKernel(size + (size % 2 === 0 ? 1 : 0), sigma)) : field;
  const out = new Float32Array(picture.data.length);
  for (let image = 0; image < batch; image += 1) {
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const at = (y * width + x) * 2;
        const fromX = x + ((shifts.data[at] ?? 0) * SHUFFLE_REACH) / 2;
        const fromY = y + ((shifts.data[at + 1] ?? 0) * SHUFFLE_REACH) / 2;
        const target = ((image * height + y) * width + x) * CHANNELS;
        for (let channel = 0; channel < CHANNELS; channel += 1) {
          out[target + channel] = sample(picture, image, fromY, fromX, channel);
        }
      }
    }
  }
  return f32Tensor(picture.shape, out);
}

function sample({ shape, data }: F32Tensor, image: number, y: number, x: number, channel: number): number {
  const [, height = 0, width = 0] = shape;
  const top = Math.floor(y);
  const left = Math.floor(x);
  const at = (row: number, column: number): number =>
    row < 0 || column < 0 || row >= height || column >= width
      ? 0
      : (data[((image * height + row) * width + column) * CHANNELS + channel] ?? 0);
  const down = y - top;
  const across = x - left;
  const upper = (1 - across) * at(top, left) + across * at(top, left + 1);
  return (1 - down) * upper + down * ((1 - across) * at(top + 1, left) + across * at(top + 1, left + 1));
}

function gaussianKernel(size: number, sigma: number): Float64Array {
  const middle = (size - 1) / 2;
  const kernel = Float64Array.from({ length: size }, (_none, i) => Math.exp(-0.5 * ((i - middle) / sigma) ** 2));
  const total = kernel.reduce((sum, value) => sum + value, 0);
  return kernel.map((value) => value / total);
}

/** Both axes, the picture mirrored at its edges. */
function blurred({ shape, data }: F32Tensor, kernel: Float64Array): F32Tensor {
  const [batch = 0, height = 0, width = 0, channels = 0] = shape;
  const reach = (kernel.length - 1) / 2;
  const pass = (
    source: Float32Array,
    length: number,
    stride: number,
    lines: (line: number) => number,
  ): Float32Array => {
    const out = new Float32Array(source.length);
    for (let line = 0; line < source.length / length; line += 1) {
      const begin = lines(line);
      for (let i = 0; i < length; i += 1) {
        let sum = 0;
        for (let j = 0; j < kernel.length; j += 1) {
          sum += (kernel[j] ?? 0) * (source[begin + mirrored(i + j - reach, length) * stride] ?? 0);
        }
        out[begin + i * stride] = sum;
      }
    }
    return out;
  };
  const row = width * channels;
  const across = pass(data, width, channels, (line) => Math.floor(line / channels) * row + (line % channels));
  const down = pass(across, height, row, (line) => Math.floor(line / row) * height * row + (line % row));
  return f32Tensor([batch, height, width, channels], down);
}

function mirrored(index: number, length: number): number {
  if (length === 1) return 0;
  const period = 2 * (length - 1);
  const place = ((index % period) + period) % period;
  return place < length ? place : period - place;
}

function seededRandom(seed: number): Random {
  let state = (Math.imul(seed, 2_654_435_761) >>> 0) + 1;
  const uniform = (): number => {
    // mulberry32
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, normal };
}
