/** What the vision room does in the server's threads: resampling pictures, and hashing weights. */
import { createHash } from 'node:crypto';
import { closeSync, readSync } from 'node:fs';
import { ModelFormatError, messageOf } from '../common/errors.js';
import { openRegularFileSync } from '../common/regular-file.js';
import { requireFinite, resampleToU8, type Resampling } from '../image/index.js';
import { elementCount, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';

/** Names of the tasks, as workers/ exports them. */
export const PREPARE_TASK = 'prepare';
export const HASH_FILES_TASK = 'hashFiles';

export interface PrepareInput {
  readonly input:
    | { readonly images: F32Tensor | U8Tensor; readonly resampling: Resampling | undefined }
    | { readonly pixelValues: F32Tensor };
}

/** What the inference process gets, and a name for every picture: equal names, equal pictures. */
export interface Prepared {
  /** u8 `[B, H, W, 3]`, or pixel values f32 as they came. */
  readonly pictures: U8Tensor | F32Tensor;
  readonly hashes: readonly string[];
}

/** @throws {InvalidRequestError} for values that are no numbers */
export function preparePictures({ input }: PrepareInput): Prepared {
  const values = 'images' in input ? input.images : input.pixelValues;
  if (values.dtype === 'F32')
    requireFinite(values.data, values.shape, 'images' in input ? 'The image' : 'pixel_values');
  const pictures = 'images' in input ? resampleToU8(input.images, input.resampling) : input.pixelValues;
  const [count = 0, ...shape] = pictures.shape;
  const length = elementCount(shape) * pictures.data.BYTES_PER_ELEMENT;
  const bytes = new Uint8Array(pictures.data.buffer, pictures.data.byteOffset, pictures.data.byteLength);
  const hashes = Array.from({ length: count }, (_none, i) =>
    createHash('sha256')
      .update(`${pictures.dtype} ${shape.join('x')}\n`)
      .update(bytes.subarray(i * length, (i + 1) * length))
      .digest('hex'),
  );
  return { pictures, hashes };
}

const CHUNK_BYTES = 4 * 2 ** 20;

/** SHA-256 of the contents of files, one after the other, in hexadecimal. */
export function hashFiles(paths: readonly string[]): string {
  const hash = createHash('sha256');
  const chunk = new Uint8Array(CHUNK_BYTES);
  for (const path of paths) {
    try {
      const { file } = openRegularFileSync(path);
      try {
        for (let read = readSync(file, chunk); read > 0; read = readSync(file, chunk)) {
          hash.update(chunk.subarray(0, read));
        }
      } finally {
        closeSync(file);
      }
    } catch (error) {
      throw new ModelFormatError('MODEL_UNREADABLE', `${path} cannot be read: ${messageOf(error)}.`, {
        cause: error,
        details: { path },
      });
    }
  }
  return hash.digest('hex');
}
