/** What every container format is read into: names, shapes and places of tensors, nothing loaded. */
import type { Shape } from '../tensor/tensor.js';

export interface TensorInfo {
  readonly name: string;
  /** safetensors' name of the dtype; may be one that Vision Bridge cannot compute with. */
  readonly dtype: string;
  readonly shape: Shape;
  /** Absolute position of the first byte in the file. */
  readonly offset: number;
  readonly sizeBytes: number;
  /** Base name of the file that has the bytes, in the header's `folder`; absent where that is the header's file. */
  readonly file?: string;
}

/** A tensor whose elements do not lie row by row: a transposed or cut view, as PyTorch files may have them. */
export interface StridedTensorInfo extends TensorInfo {
  /** Elements from one index to the next, for every dimension. */
  readonly strides: readonly number[];
}

export interface ModelHeader {
  /** Real path: links resolved. Of a model in several files, the path of its index. */
  readonly path: string;
  /** Real path of the folder in which all bytes of tensors lie. */
  readonly folder: string;
  readonly container: 'safetensors' | 'torch';
  /** Of all files together. */
  readonly sizeBytes: number;
  /** In the order of the file's own header; each a range of bytes, row by row. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Tensors that are no range of bytes. Kept apart, so that nobody reads them as if they were. */
  readonly strided: ReadonlyMap<string, StridedTensorInfo>;
  readonly metadata: ReadonlyMap<string, string>;
  /** Identity on this machine: changes when the file is replaced or written. */
  readonly stamp: FileStamp;
}

interface FileStamp {
  readonly device: number;
  readonly inode: number;
  readonly sizeBytes: number;
  readonly modifiedMs: number;
  /** Of the other files of a model in several. */
  readonly parts?: readonly FileStamp[];
}

/** The stamp of one file. */
export function stampOf(stat: { dev: number; ino: number; size: number; mtimeMs: number }): FileStamp {
  return { device: stat.dev, inode: stat.ino, sizeBytes: stat.size, modifiedMs: stat.mtimeMs };
}

/** A text that two stamps share only when they name the same state of the same file. */
export function stampKey({ device, inode, sizeBytes, modifiedMs, parts = [] }: FileStamp): string {
  const own = `${device}:${inode}:${sizeBytes}:${modifiedMs}`;
  return parts.length === 0 ? own : [own, ...parts.map(stampKey)].join(',');
}
