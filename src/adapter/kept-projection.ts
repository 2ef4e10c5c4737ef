/**
 * The rounded form of a projection on disk: a safetensors file of whole numbers and scales, named by the weights' hash.
 *
 * What it says of itself is checked before it is used, its contents by their hash: a file that was cut short or changed is
 * made again, never run. It is written beside its place and renamed, so that nobody ever sees half of one.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import * as z from 'zod';
import { BridgeError, systemCodeOf } from '../common/errors.js';
import { parseSafetensors, serializeSafetensors } from '../formats/index.js';
import { f32Tensor, tensorBytes, type Tensor } from '../tensor/tensor.js';

export type ProjectionScheme = 'int8' | 'int8x2' | 'exact';

/** Of a matrix as the adapter stores it: `[rows, columns]`, of which a row gives one value. */
export interface MatrixShape {
  readonly rows: number;
  readonly columns: number;
}

export interface RoundedMatrix extends MatrixShape {
  /** I8 `[columns, rows]` */
  readonly levels: Int8Array;
  /** f32 `[rows]`: what one step stands for. */
  readonly scale: Float32Array;
  /** I8 `[columns, rows]`, in finer steps; two-term scheme only. */
  readonly low?: Int8Array | undefined;
}

export type RoundedMatrices = ReadonlyMap<string, RoundedMatrix>;

/** Where the rounded form of some weights is kept. */
export interface KeptPlace {
  readonly path: string;
  /** Of the adapter's files. */
  readonly sha256: string;
}

export interface KeptProjection {
  readonly scheme: ProjectionScheme;
  /** Smallest cosine to exact arithmetic that was measured. */
  readonly cosine: number;
  /** Empty where the projection stays exact. */
  readonly matrices: RoundedMatrices;
}

/** Raised when they are made or measured in another way; older files are left alone and unused. */
const PROJECTION_VERSION = 1;
const KEY = 'vision_bridge_projection';
const schema = z.object({
  version: z.literal(PROJECTION_VERSION),
  scheme: z.enum(['int8', 'int8x2', 'exact']),
  cosine: z.number().min(-1).max(1),
  sha256: z.string().length(64),
  contents: z.string().length(64),
});

/** @param variant Of the adapter: FaceID-plus of either version is measured by itself. */
export function keptPlace(directory: string, sha256: string, variant: string): KeptPlace {
  return { path: join(directory, `${sha256}-${variant}-projection-v${PROJECTION_VERSION}.safetensors`), sha256 };
}

/**
 * What is kept, or undefined where there is nothing that can be used.
 *
 * @param shapes Of the matrices that are wanted.
 */
export async function readKeptProjection(
  { path, sha256 }: KeptPlace,
  shapes: ReadonlyMap<string, MatrixShape>,
): Promise<KeptProjection | undefined> {
  try {
    const { tensors, metadata } = parseSafetensors(await readFile(path), path);
    const { data } = schema.safeParse(JSON.parse(metadata.get(KEY) ?? 'null'));
    if (data?.sha256 !== sha256 || data.contents !== contentsOf(tensors)) return undefined;
    const { scheme, cosine } = data;
    if (scheme === 'exact') return { scheme, cosine, matrices: new Map() };
    const matrices = new Map<string, RoundedMatrix>();
    for (const [name, shape] of shapes) {
      const matrix = matrixOf(tensors, name, shape);
      if (matrix === undefined || (matrix.low === undefined) !== (scheme === 'int8')) return undefined;
      matrices.set(name, matrix);
    }
    return { scheme, cosine, matrices };
  } catch (error) {
    // Missing, cut short, or not ours: it is made again.
    if (error instanceof BridgeError || error instanceof SyntaxError || systemCodeOf(error) !== undefined)
      return undefined;
    throw error;
  }
}

/** @throws what writing throws: the folder may be full, or not ours to write into */
export async function writeKeptProjection(
  { path, sha256 }: KeptPlace,
  { scheme, cosine, matrices }: KeptProjection,
): Promise<void> {
  const tensors: Record<string, Tensor> = {};
  for (const [name, { levels, scale, low, rows, columns }] of matrices) {
    tensors[name] = { dtype: 'I8', shape: [columns, rows], data: levels };
    tensors[scaleName(name)] = f32Tensor([rows], scale);
    if (low !== undefined) tensors[lowName(name)] = { dtype: 'I8', shape: [columns, rows], data: low };
  }
  const contents = contentsOf(new Map(Object.entries(tensors)));
  const description = { version: PROJECTION_VERSION, scheme, cosine, sha256, contents };
  await mkdir(dirname(path), { recursive: true });
  const partial = `${path}.${process.pid}.partial`;
  try {
    await writeFile(partial, serializeSafetensors(tensors, { [KEY]: JSON.stringify(description) }));
    await rename(partial, path);
  } finally {
    await rm(partial, { force: true });
  }
}

const scaleName = (name: string): string => `${name} scale`;
const lowName = (name: string): string => `${name} low`;

function matrixOf(
  tensors: ReadonlyMap<string, Tensor>,
  name: string,
  { rows, columns }: MatrixShape,
): RoundedMatrix | undefined {
  const [levels, scale, low] = [tensors.get(name), tensors.get(scaleName(name)), tensors.get(lowName(name))];
  const isWhole = levels?.dtype === 'I8' && levels.data.length === rows * columns;
  if (!isWhole || scale?.dtype !== 'F32' || scale.data.length !== rows) return undefined;
  if (low === undefined) return { levels: levels.data, scale: scale.data, rows, columns };
  if (low.dtype !== 'I8' || low.data.length !== rows * columns) return undefined;
  return { levels: levels.data, scale: scale.data, low: low.data, rows, columns };
}

/** SHA-256 of names and values. */
function contentsOf(tensors: ReadonlyMap<string, Tensor>): string {
  const hash = createHash('sha256');
  for (const [name, tensor] of [...tensors].sort(([a], [b]) => (a < b ? -1 : 1)))
    hash.update(`${name} ${tensor.dtype} ${tensor.shape.join('x')}\n`).update(tensorBytes(tensor));
  return hash.digest('hex');
}
