/** Model files with one thing wrong, made from a sound one. */

interface StoredTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Buffer;
}

/** What a header says of a tensor; hostile files say anything. */
interface HeaderEntry {
  readonly dtype?: unknown;
  readonly shape?: unknown;
  readonly data_offsets?: unknown;
}

/** A safetensors file of any header text, sound or not, that claims any header length. */
export function fileOf(header: string | Buffer, data: Buffer = Buffer.alloc(0), claimedLength?: bigint): Buffer {
  const json = Buffer.from(header);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(claimedLength ?? BigInt(json.length));
  return Buffer.concat([length, json, data]);
}

/** A sound model file, taken apart. */
export class SoundModel {
  readonly bytes: Buffer;
  readonly metadata: Readonly<Record<string, string>>;
  readonly #tensors: ReadonlyMap<string, StoredTensor>;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
    const dataStart = this.headerEnd;
    const header = JSON.parse(bytes.subarray(8, dataStart).toString()) as Record<string, unknown>;
    const { __metadata__: metadata, ...tensors } = header;
    this.metadata = metadata as Record<string, string>;
    this.#tensors = new Map(
      Object.entries(tensors as Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>).map(
        ([
          name,
          {
            dtype,
            shape,
            data_offsets: [begin, end],
          },
        ]) => [name, { dtype, shape, bytes: bytes.subarray(dataStart + begin, dataStart + end) }],
      ),
    );
  }

  get headerEnd(): number {
    return 8 + Number(this.bytes.readBigUInt64LE());
  }

  /** Another entry in the header for one tensor; the data stays as it is. */
  saying(name: string, entry: HeaderEntry): Buffer {
    const sound = this.#tensor(name);
    const { entries, data } = layOut(this.#tensors);
    return this.#join({ ...entries, [name]: { ...entryOf(sound, entries, name), ...entry } }, data);
  }

  /** One tensor replaced by zeros of another form; everything else fits. */
  storing(name: string, dtype: string, shape: readonly number[], bytesPerValue: number): Buffer {
    this.#tensor(name);
    const bytes = Buffer.alloc(shape.reduce((product, side) => product * side, bytesPerValue));
    const { entries, data } = layOut(new Map([...this.#tensors, [name, { dtype, shape, bytes }]]));
    return this.#join(entries, data);
  }

  /** Without the tensors that match; everything else fits. */
  without(pattern: RegExp): Buffer {
    const kept = new Map([...this.#tensors].filter(([name]) => !pattern.test(name)));
    if (kept.size === this.#tensors.size) throw new RangeError(`no tensor matches ${String(pattern)}`);
    const { entries, data } = layOut(kept);
    return this.#join(entries, data);
  }

  /** The same tensors, described by another `__metadata__`. */
  describedBy(metadata: unknown): Buffer {
    const { entries, data } = layOut(this.#tensors);
    return fileOf(JSON.stringify({ __metadata__: metadata, ...entries }), data);
  }

  /** The configuration in the metadata, changed. */
  configuredBy(change: Readonly<Record<string, unknown>>): Buffer {
    const config = JSON.parse(this.metadata['config'] ?? '{}') as Record<string, unknown>;
    return this.describedBy({ config: JSON.stringify({ ...config, ...change }) });
  }

  #tensor(name: string): StoredTensor {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) throw new RangeError(`the sound model has no ${name}`);
    return tensor;
  }

  #join(entries: Readonly<Record<string, HeaderEntry>>, data: Buffer): Buffer {
    return fileOf(JSON.stringify({ __metadata__: this.metadata, ...entries }), data);
  }
}

function entryOf(
  { dtype, shape }: StoredTensor,
  entries: Readonly<Record<string, HeaderEntry>>,
  name: string,
): HeaderEntry {
  return { dtype, shape, data_offsets: entries[name]?.data_offsets };
}

function layOut(tensors: ReadonlyMap<string, StoredTensor>): { entries: Record<string, HeaderEntry>; data: Buffer } {
  const entries: Record<string, HeaderEntry> = {};
  let end = 0;
  for (const [name, { dtype, shape, bytes }] of tensors) {
    entries[name] = { dtype, shape, data_offsets: [end, end + bytes.length] };
    end += bytes.length;
  }
  return { entries, data: Buffer.concat([...tensors.values()].map(({ bytes }) => bytes)) };
}
