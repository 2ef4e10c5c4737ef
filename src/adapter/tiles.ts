/**
 * A picture seen in pieces: cut into t × t tiles, each encoded like a whole picture, the features put together again.
 *
 * Source: ComfyUI_IPAdapter_plus, "enhance tiles" (formulas restated).
 */
import { BridgeError } from '../common/errors.js';
import { f32Tensor, u8Tensor, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';

export const MAX_TILES = 16;

/**
 * Pieces of `floor(H/t)` × `floor(W/t)` pixels, rows first; what is left at the right and the bottom is lost.
 *
 * @returns `[t·t·B, h, w, C]`: all pictures' first pieces, then all second ones.
 */
export function splitTiles(images: F32Tensor | U8Tensor, tiles: number): F32Tensor | U8Tensor {
  const [batch = 0, height = 0, width = 0, channels = 0] = images.shape;
  const h = Math.floor(height / tiles);
  const w = Math.floor(width / tiles);
  const line = w * channels;
  const shape = [tiles * tiles * batch, h, w, channels];
  const length = tiles * tiles * batch * h * line;
  const copy = (source: Float32Array | Uint8Array, target: Float32Array | Uint8Array): void => {
    let position = 0;
    for (let tile = 0; tile < tiles * tiles; tile += 1) {
      const top = Math.floor(tile / tiles) * h;
      const left = (tile % tiles) * w;
      for (let image = 0; image < batch; image += 1) {
        for (let y = 0; y < h; y += 1) {
          const from = ((image * height + top + y) * width + left) * channels;
          target.set(source.subarray(from, from + line), position);
          position += line;
        }
      }
    }
  };
  if (images.dtype === 'U8') {
    const data = new Uint8Array(length);
    copy(images.data, data);
    return u8Tensor(shape, data);
  }
  const data = new Float32Array(length);
  copy(images.data, data);
  return f32Tensor(shape, data);
}

/** Features of tiles, as `splitTiles` orders them, as features of whole pictures. */
export function mergeTiles(features: F32Tensor, tiles: number): F32Tensor {
  return features.shape.length === 3 ? mergeHiddenStates(features, tiles) : mergeEmbeds(features, tiles);
}

/** `[t·t·B, 1+g·g, D]` to `[B, 1+g·g, D]`: class tokens averaged, patches put side by side and averaged down. */
function mergeHiddenStates({ shape, data }: F32Tensor, tiles: number): F32Tensor {
  const [rows = 0, tokens = 0, width = 0] = shape;
  const batch = rows / (tiles * tiles);
  const grid = sideOf(tokens - 1, `${tokens - 1} patches`);
  const out = new Float32Array(batch * tokens * width);
  const share = 1 / (tiles * tiles);
  for (let tile = 0; tile < tiles * tiles; tile += 1) {
    for (let image = 0; image < batch; image += 1) {
      const from = (tile * batch + image) * tokens;
      for (let token = 0; token < tokens; token += 1) {
        const target = token === 0 ? 0 : 1 + cellOf(token - 1, tile, grid, tiles);
        const begin = (image * tokens + target) * width;
        for (let i = 0; i < width; i += 1) {
          out[begin + i] = (out[begin + i] ?? 0) + share * (data[(from + token) * width + i] ?? 0);
        }
      }
    }
  }
  return f32Tensor([batch, tokens, width], out);
}

/** `[t·t·B, E]` to `[B, E]`, a vector being taken for a square picture. */
function mergeEmbeds({ shape, data }: F32Tensor, tiles: number): F32Tensor {
  const [rows = 0, width = 0] = shape;
  const batch = rows / (tiles * tiles);
  const side = sideOf(width, `image embeds of width ${width}`);
  const out = new Float32Array(batch * width);
  const share = 1 / (tiles * tiles);
  for (let tile = 0; tile < tiles * tiles; tile += 1) {
    for (let image = 0; image < batch; image += 1) {
      const from = (tile * batch + image) * width;
      for (let i = 0; i < width; i += 1) {
        const target = image * width + cellOf(i, tile, side, tiles);
        out[target] = (out[target] ?? 0) + share * (data[from + i] ?? 0);
      }
    }
  }
  return f32Tensor([batch, width], out);
}

/** Where place `index` of a tile's `side × side` grid falls when all tiles together are averaged down to one grid. */
function cellOf(index: number, tile: number, side: number, tiles: number): number {
  const y = Math.floor(tile / tiles) * side + Math.floor(index / side);
  const x = (tile % tiles) * side + (index % side);
  return Math.floor(y / tiles) * side + Math.floor(x / tiles);
}

function sideOf(count: number, what: string): number {
  const side = Math.round(Math.sqrt(count));
  if (side * side !== count) {
    throw new BridgeError(
      'OUTPUT_UNAVAILABLE',
      `Tiles cannot be merged: ${what} are no square. They work with encoders such as CLIP-ViT-H (1024 wide), not with bigG (1280).`,
    );
  }
  return side;
}

/**
 * Features of the whole picture and of its tiles together: a single picture becomes a batch of two, the whole times
 * `ratio` and the tiles; several are mixed one by one.
 */
export function mixTiles(whole: F32Tensor, merged: F32Tensor, ratio: number): F32Tensor {
  const [batch = 0, ...rest] = whole.shape;
  if (batch === 1) {
    const out = new Float32Array(2 * whole.data.length);
    whole.data.forEach((value, i) => (out[i] = ratio * value));
    out.set(merged.data, whole.data.length);
    return f32Tensor([2, ...rest], out);
  }
  return f32Tensor(
    whole.shape,
    whole.data.map((value, i) => ratio * value + (1 - ratio) * (merged.data[i] ?? 0)),
  );
}
