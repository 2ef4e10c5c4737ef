/** A safetensors file that is written tensor by tensor, in any order: it never is whole in memory. */
import { open, type FileHandle } from 'node:fs/promises';
import { DTYPE_SIZES, elementCount, tensorBytes, type DType, type Shape, type Tensor } from '../../tensor/tensor.js';

export interface TensorPlan {
  readonly dtype: DType;
  readonly shape: Shape;
}

type Places = ReadonlyMap<string, { readonly plan: TensorPlan; readonly offset: number }>;

/** Data begins at a multiple of this, so that readers can map it. */
const ALIGNMENT = 64;

export class SafetensorsWriter implements AsyncDisposable {
  readonly #file: FileHandle;
  readonly #places: Places;
  readonly #header: Readonly<Record<string, unknown>>;
  readonly #headerBytes: number;

  private constructor(
    file: FileHandle,
    places: Places,
    header: Readonly<Record<string, unknown>>,
    headerBytes: number,
  ) {
    this.#file = file;
    this.#places = places;
    this.#header = header;
    this.#headerBytes = headerBytes;
  }

  /**
   * Makes the file, which must not exist, with room for all tensors; wide dtypes come first.
   *
   * @param metadataBytes Room for metadata, in bytes of JSON: it is written at the end.
   */
  static async create(
    path: string,
    tensors: ReadonlyMap<string, TensorPlan>,
    metadataBytes: number,
  ): Promise<SafetensorsWriter> {
    const ordered = [...tensors].sort(([, a], [, b]) => DTYPE_SIZES[b.dtype] - DTYPE_SIZES[a.dtype]);
    const header: Record<string, unknown> = {};
    let end = 0;
    const ends = ordered.map(([name, plan]) => {
      const begin = end;
      end += elementCount(plan.shape) * DTYPE_SIZES[plan.dtype];
      header[name] = { dtype: plan.dtype, shape: plan.shape, data_offsets: [begin, end] };
      return [name, { plan, begin }] as const;
    });
    const needed = Buffer.byteLength(JSON.stringify(header)) + metadataBytes;
    const headerBytes = Math.ceil((8 + needed) / ALIGNMENT) * ALIGNMENT - 8;
    const places = new Map(ends.map(([name, { plan, begin }]) => [name, { plan, offset: 8 + headerBytes + begin }]));
    const file = await open(path, 'wx');
    const writer = new SafetensorsWriter(file, places, header, headerBytes);
    try {
      await writer.writeMetadata({});
      await file.truncate(8 + headerBytes + end);
    } catch (error) {
      await file.close();
      throw error;
    }
    return writer;
  }

  /** @throws {RangeError} for a tensor that was not planned so. */
  async write(name: string, tensor: Tensor): Promise<void> {
    const place = this.#places.get(name);
    if (place?.plan.dtype !== tensor.dtype || elementCount(place.plan.shape) !== tensor.data.length) {
      throw new RangeError(`${name} was not planned as ${tensor.dtype} [${tensor.shape.join(', ')}]`);
    }
    await this.#writeAt(tensorBytes(tensor), place.offset);
  }

  /** @throws {RangeError} for more than there is room for */
  async writeMetadata(metadata: Readonly<Record<string, string>>): Promise<void> {
    const json = Buffer.from(JSON.stringify({ __metadata__: metadata, ...this.#header }));
    if (json.length > this.#headerBytes) throw new RangeError(`the metadata needs ${json.length} bytes`);
    const bytes = new Uint8Array(8 + this.#headerBytes).fill(0x20);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(this.#headerBytes), true);
    bytes.set(json, 8);
    await this.#writeAt(bytes, 0);
  }

  /** Until this returned, a crash of the system may leave a file with holes. */
  async flush(): Promise<void> {
    await this.#file.sync();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }

  async #writeAt(bytes: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < bytes.byteLength;) {
      const { bytesWritten } = await this.#file.write(bytes, done, bytes.byteLength - done, position + done);
      done += bytesWritten;
    }
  }
}
