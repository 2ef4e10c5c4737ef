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
  /** Base name of the file that has the bytes, in the header's own folder; absent where that is the header's file. */
  readonly file?: string;
}

export interface ModelHeader {
  /** Real path: links resolved. */
  readonly path: string;
  readonly container: 'safetensors';
  readonly sizeBytes: number;
  /** In the order of the file's own header. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: ReadonlyMap<string, string>;
  /** Identity on this machine: changes when the file is replaced or written. */
  readonly stamp: FileStamp;
}

interface FileStamp {
  readonly device: number;
  readonly inode: number;
  readonly sizeBytes: number;
  readonly modifiedMs: number;
}

/** A text that two stamps share only when they name the same state of the same file. */
export function stampKey(stamp: FileStamp): string {
  return `${stamp.device}:${stamp.inode}:${stamp.sizeBytes}:${stamp.modifiedMs}`;
}
