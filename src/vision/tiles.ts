/**
 * Detail beyond an encoder's own resolution: a picture is cut into n × n pieces, each piece is encoded like a whole
 * picture, and the features are merged back into the shape that one picture has.
 *
 * Merging is IPAdapter_plus's ("enhance tiles"): class tokens are averaged; patch tokens are put back on one grid of
 * (n·g)² places, g² being what one picture has, and each square of n × n neighbours is averaged. Image embeds are treated
 * as a square picture of one channel, in the same way. Sums are kept in double precision, one row of pieces at a time, so
 * that memory does not grow with the number of pieces.
 *
 * Source: IPAdapter_plus, `encode_image_masked`; checked against tensors that it computed.
 */
import { InvalidRequestError, ModelFormatError } from '../common/errors.js';
import { f32Tensor, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import type { VisionOutput } from './output.js';
import { joinOutputs } from './join.js';
import type { VisionModel } from './model.js';

export interface Tiling {
  /** Pieces per side, 2 to 16. */
  readonly tiles: number;
  /**
   * How much of the whole picture's own features is added, 0 to 1, as IPAdapter_plus adds them: with one picture the
   * result is a batch of two, [ratio · whole, merged]; with more it is ratio · whole + (1 - ratio) · merged for each.
   * Absent: the merged features alone.
   */
  readonly ratio: number | undefined;
}

/** IPAdapter_plus's own limit. */
const MAX_TILES = 16;

/** @throws {InvalidRequestError} for a number that is not allowed; undefined where there is nothing to cut. */
export function readTiling(tiles: number | undefined, ratio: number | undefined): Tiling | undefined {
  if (tiles !== undefined && !(Number.isInteger(tiles) && tiles >= 1 && tiles <= MAX_TILES)) {
    throw new InvalidRequestError(`tiles is a whole number from 1 to ${MAX_TILES}, got ${tiles}.`);
  }
  if (ratio !== undefined && !(ratio >= 0 && ratio <= 1)) {
    throw new InvalidRequestError(`The ratio of tiles is a number from 0 to 1, got ${ratio}.`);
  }
  if (tiles !== undefined && tiles > 1) return { tiles, ratio };
  if (ratio !== undefined) throw new InvalidRequestError('A ratio of tiles needs tiles, two or more.');
  return undefined;
}

/**
 * Encodes pictures in pieces.
 *
 * @param encode Encodes pictures as they are.
 * @throws {InvalidRequestError} for a picture with fewer pixels than pieces; {ModelFormatError} `OUTPUT_UNAVAILABLE` for
 *   features that form no square; what `encode` throws.
 */
export async function encodeInTiles(
  encode: (images: F32Tensor | U8Tensor) => Promise<VisionOutput>,
  model: VisionModel,
  images: F32Tensor | U8Tensor,
  { tiles, ratio }: Tiling,
): Promise<VisionOutput> {
  const [batch = 0, height = 0, width = 0] = images.shape;
  if (height < tiles || width < tiles) {
    throw new InvalidRequestError(`A picture of ${width}×${height} cannot be cut into ${tiles}×${tiles} pieces.`);
  }
  const merged: VisionOutput[] = [];
  for (let picture = 0; picture < batch; picture += 1) {
    const merger = new TileMerger(model, tiles);
    for (let row = 0; row < tiles; row += 1) merger.addRow(row, await encode(cutRow(images, picture, tiles, row)));
    merged.push(merger.finish());
  }
  const tiled = joinOutputs(merged);
  if (ratio === undefined) return tiled;
  const whole = await encode(images);
  if (batch === 1) return joinOutputs([mapOutput(whole, (value) => scaled(value, ratio)), tiled]);
  return mapOutput(whole, (value, name) => {
    const part = tiled[name];
    return part === undefined ? value : added(scaled(value, ratio), scaled(part, 1 - ratio));
  });
}

/** Pictures that were encoded one by one, as the batch that they form. */
export interface EncodedPictures {
  readonly output: VisionOutput;
  /** How many were encoded in this one go. */
  readonly pictures: number;
}

/**
 * Joins what was encoded one by one into what encoding all at once would have given.
 *
 * @param total Pictures that were asked for, those that failed included.
 */
export function joinEncoded(parts: readonly EncodedPictures[], total: number, ratio: number | undefined): VisionOutput {
  const isPair = ratio !== undefined && total > 1;
  return joinOutputs(
    parts.map(({ output, pictures }) => (isPair && pictures === 1 ? blendPair(output, ratio) : output)),
  );
}

/** [ratio · whole, merged] as ratio · whole + (1 - ratio) · merged. */
function blendPair(output: VisionOutput, ratio: number): VisionOutput {
  return mapOutput(output, ({ shape, data }) => {
    const half = data.length / 2;
    const rest = [1, ...shape.slice(1)];
    return added(f32Tensor(rest, data.slice(0, half)), scaled(f32Tensor(rest, data.subarray(half)), 1 - ratio));
  });
}

/** One row of a picture's pieces: `[tiles, H / tiles, W / tiles, C]`; what is left over at the right and below is lost. */
function cutRow<I extends F32Tensor | U8Tensor>(images: I, picture: number, tiles: number, row: number): I {
  const [, fullHeight = 0, fullWidth = 0, channels = 0] = images.shape;
  const height = Math.floor(fullHeight / tiles);
  const width = Math.floor(fullWidth / tiles);
  const line = width * channels;
  const shape = [tiles, height, width, channels];
  const length = tiles * height * line;
  const data = images.dtype === 'F32' ? new Float32Array(length) : new Uint8Array(length);
  for (let tile = 0; tile < tiles; tile += 1) {
    for (let y = 0; y < height; y += 1) {
      const from = ((picture * fullHeight + row * height + y) * fullWidth + tile * width) * channels;
      data.set(images.data.subarray(from, from + line), (tile * height + y) * line);
    }
  }
  return { ...images, shape, data };
}

interface Sum {
  /** Shape of one picture's features, batch of one. */
  readonly shape: readonly number[];
  readonly data: Float64Array;
  /** Layers that are stacked (all hidden states), or 1. */
  readonly layers: number;
  readonly prefix: number;
  /** Side of the grid of patches. */
  readonly side: number;
  readonly width: number;
}

class TileMerger {
  readonly #model: VisionModel;
  readonly #tiles: number;
  readonly #sums = new Map<keyof VisionOutput, Sum>();

  constructor(model: VisionModel, tiles: number) {
    this.#model = model;
    this.#tiles = tiles;
  }

  /** Adds the features of one row of pieces, `tiles` of them. */
  addRow(row: number, output: VisionOutput): void {
    for (const [name, value] of entriesOf(output)) {
      const sum = this.#sums.get(name) ?? emptySum(name, value, this.#model);
      this.#sums.set(name, sum);
      for (let tile = 0; tile < this.#tiles; tile += 1) addTile(sum, value.data, row, tile, this.#tiles);
    }
  }

  finish(): VisionOutput {
    const pieces = this.#tiles ** 2;
    return Object.fromEntries(
      [...this.#sums].map(([name, { shape, data }]) => [
        name,
        f32Tensor(
          shape,
          Float32Array.from(data, (value) => value / pieces),
        ),
      ]),
    );
  }
}

function emptySum(name: keyof VisionOutput, { shape }: F32Tensor, model: VisionModel): Sum {
  const isVector = shape.length === 2;
  const layers = shape.length === 4 ? (shape[1] ?? 0) : 1;
  // The projected patches of a LLaVA encoder come without the class token.
  const prefix = isVector || name === 'mmProjected' ? 0 : model.prefixTokens;
  const tokens = (isVector ? shape[1] : shape.at(-2)) ?? 0;
  const side = Math.sqrt(tokens - prefix);
  if (!Number.isInteger(side)) {
    throw new ModelFormatError(
      'OUTPUT_UNAVAILABLE',
      `${name} of ${model.family} cannot be merged from tiles: ${tokens - prefix} ${isVector ? 'values' : 'patches'} form no square.`,
      { details: { output: name, values: tokens - prefix } },
    );
  }
  const one = [1, ...shape.slice(1)];
  const width = isVector ? 1 : (shape.at(-1) ?? 0);
  return { shape: one, data: new Float64Array(layers * tokens * width), layers, prefix, side, width };
}

function addTile(sum: Sum, values: Float32Array, row: number, tile: number, tiles: number): void {
  const { data, layers, prefix, side, width } = sum;
  const tokens = prefix + side * side;
  for (let layer = 0; layer < layers; layer += 1) {
    const target = layer * tokens;
    const source = (tile * layers + layer) * tokens;
    for (let token = 0; token < tokens; token += 1) {
      const patch = token - prefix;
      const y = Math.floor((row * side + Math.floor(patch / side)) / tiles);
      const x = Math.floor((tile * side + (patch % side)) / tiles);
      const to = (target + (patch < 0 ? token : prefix + y * side + x)) * width;
      const from = (source + token) * width;
      for (let i = 0; i < width; i += 1) data[to + i] = (data[to + i] ?? 0) + (values[from + i] ?? 0);
    }
  }
}

/** Whether image embeds of this width can be merged: only where they form a square. */
export function formsSquare(width: number): boolean {
  return Number.isInteger(Math.sqrt(width));
}

function entriesOf(output: VisionOutput): [keyof VisionOutput, F32Tensor][] {
  return Object.entries(output) as [keyof VisionOutput, F32Tensor][];
}

function mapOutput(
  output: VisionOutput,
  change: (value: F32Tensor, name: keyof VisionOutput) => F32Tensor,
): VisionOutput {
  return Object.fromEntries(entriesOf(output).map(([name, value]) => [name, change(value, name)]));
}

function scaled({ shape, data }: F32Tensor, factor: number): F32Tensor {
  return f32Tensor(
    shape,
    data.map((value) => value * factor),
  );
}

function added({ shape, data }: F32Tensor, other: F32Tensor): F32Tensor {
  return f32Tensor(
    shape,
    data.map((value, i) => value + (other.data[i] ?? 0)),
  );
}
