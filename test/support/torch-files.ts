/** PyTorch files as Python would write them, sound or not: pickles instruction by instruction, archives entry by entry. */
import { crc32, deflateRawSync } from 'node:zlib';
import type { Tensor } from '../../src/tensor/tensor.js';
import { tensorBytes } from '../../src/tensor/tensor.js';

const STORAGES: Readonly<Record<string, string>> = {
  F64: 'DoubleStorage',
  F32: 'FloatStorage',
  F16: 'HalfStorage',
  BF16: 'BFloat16Storage',
  I64: 'LongStorage',
  U8: 'ByteStorage',
};

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const u64 = (value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};

/** Instructions of protocol 2, and what they make. */
export const py = {
  pickle: (...body: Buffer[]) => Buffer.concat([Buffer.of(0x80, 2), ...body, Buffer.from('.')]),
  text: (text: string) => Buffer.concat([Buffer.from('X'), u32(Buffer.byteLength(text)), Buffer.from(text)]),
  int(value: number) {
    if (value >= 0 && value < 256) return Buffer.of(0x4b, value);
    if (value >= 0 && value < 2 ** 31) return Buffer.concat([Buffer.from('J'), u32(value)]);
    return Buffer.concat([Buffer.of(0x8a, 8), u64(BigInt.asUintN(64, BigInt(value)))]);
  },
  big: (hex: string) => {
    const bytes = Buffer.from(hex, 'hex').reverse();
    return Buffer.concat([Buffer.of(0x8a, bytes.length), bytes]);
  },
  none: Buffer.from('N'),
  no: Buffer.of(0x89),
  yes: Buffer.of(0x88),
  tuple: (...items: Buffer[]) => Buffer.concat([Buffer.from('('), ...items, Buffer.from('t')]),
  list: (...items: Buffer[]) => Buffer.concat([Buffer.from(']('), ...items, Buffer.from('e')]),
  dict: (entries: readonly (readonly [Buffer, Buffer])[]) =>
    Buffer.concat([Buffer.from('}('), ...entries.flat(), Buffer.from('u')]),
  global: (module: string, name: string) => Buffer.from(`c${module}\n${name}\n`),
  /** The import whose names are values. */
  stackGlobal: (module: Buffer, name: Buffer) => Buffer.concat([module, name, Buffer.of(0x93)]),
  call: (callable: Buffer, ...args: Buffer[]) => Buffer.concat([callable, py.tuple(...args), Buffer.from('R')]),
  persistent: (id: Buffer) => Buffer.concat([id, Buffer.from('Q')]),
};

export interface TensorOptions {
  readonly key?: string;
  readonly storage?: string;
  /** Elements that the storage claims to have. */
  readonly elements?: number;
  readonly offset?: number;
  readonly shape?: readonly number[];
  readonly strides?: readonly number[];
  /** A further member of the persistent id, as old files have it. */
  readonly view?: Buffer;
}

const counts = (values: readonly number[]): Buffer => py.tuple(...values.map((value) => py.int(value)));

/** What torch.save writes for a tensor: by default 2 × 2 of f32, row by row, in the storage "0". */
export function pickledTensor(options: TensorOptions = {}): Buffer {
  const shape = options.shape ?? [2, 2];
  const count = shape.reduce((product, side) => product * side, 1);
  const strides = options.strides ?? shape.map((_side, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
  const storage = py.tuple(
    py.text('storage'),
    py.global('torch', options.storage ?? 'FloatStorage'),
    py.text(options.key ?? '0'),
    py.text('cpu'),
    py.int(options.elements ?? count),
    ...(options.view === undefined ? [] : [options.view]),
  );
  return py.call(
    py.global('torch._utils', '_rebuild_tensor_v2'),
    py.persistent(storage),
    py.int(options.offset ?? 0),
    counts(shape),
    counts(strides),
    py.no,
    py.call(py.global('collections', 'OrderedDict')),
  );
}

export interface ZipPart {
  readonly name: string;
  readonly bytes: Buffer;
  readonly isPacked?: boolean;
  readonly flags?: number;
  /** What the directory says in place of the truth. */
  readonly says?: {
    readonly name?: string;
    readonly size?: number;
    readonly stored?: number;
    readonly offset?: number;
  };
}

export interface ZipOptions {
  /** Sizes and places of 64 bits throughout. */
  readonly is64?: boolean;
  readonly comment?: string;
  /** What the end says in place of the truth. */
  readonly says?: { readonly count?: number; readonly length?: number; readonly position?: number };
}

/** Data begins at a multiple of this in PyTorch's archives. */
const ALIGNMENT = 64;
const FULL = 0xffffffff;

export function zipOf(parts: readonly ZipPart[], options: ZipOptions = {}): Buffer {
  const { is64 = false, comment = '', says = {} } = options;
  const files: Buffer[] = [];
  const directory: Buffer[] = [];
  let position = 0;
  for (const { name, bytes, isPacked = false, flags = 0, says: claims = {} } of parts) {
    const data = isPacked ? deflateRawSync(bytes) : bytes;
    const padding = (ALIGNMENT - ((position + 34 + Buffer.byteLength(name)) % ALIGNMENT)) % ALIGNMENT;
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50);
    local.writeUInt16LE(flags, 6);
    local.writeUInt16LE(isPacked ? 8 : 0, 8);
    local.writeUInt32LE(crc32(bytes), 14);
    local.writeUInt32LE(data.length, 18);
    local.writeUInt32LE(bytes.length, 22);
    local.writeUInt16LE(Buffer.byteLength(name), 26);
    local.writeUInt16LE(4 + padding, 28);
    const extra = Buffer.alloc(4 + padding);
    extra.write('FB');
    extra.writeUInt16LE(padding, 2);
    files.push(local, Buffer.from(name), extra, data);

    const [size, stored, offset] = [
      claims.size ?? bytes.length,
      claims.stored ?? data.length,
      claims.offset ?? position,
    ];
    const shown = Buffer.from(claims.name ?? name);
    const wide = is64 ? Buffer.concat([Buffer.of(1, 0, 24, 0), u64(size), u64(stored), u64(offset)]) : Buffer.alloc(0);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50);
    central.writeUInt16LE(flags, 8);
    central.writeUInt16LE(isPacked ? 8 : 0, 10);
    central.writeUInt32LE(crc32(bytes), 16);
    central.writeUInt32LE(is64 ? FULL : stored, 20);
    central.writeUInt32LE(is64 ? FULL : size, 24);
    central.writeUInt16LE(shown.length, 28);
    central.writeUInt16LE(wide.length, 30);
    central.writeUInt32LE(is64 ? FULL : offset, 42);
    directory.push(central, shown, wide);
    position += 34 + Buffer.byteLength(name) + padding + data.length;
  }
  const central = Buffer.concat(directory);
  const place = {
    count: says.count ?? parts.length,
    length: says.length ?? central.length,
    position: says.position ?? position,
  };
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50);
  end.writeUInt16LE(is64 ? 0xffff : place.count, 8);
  end.writeUInt16LE(is64 ? 0xffff : place.count, 10);
  end.writeUInt32LE(is64 ? FULL : place.length, 12);
  end.writeUInt32LE(is64 ? FULL : place.position, 16);
  end.writeUInt16LE(Buffer.byteLength(comment), 20);
  const wideEnd = is64 ? wideEndOf(place, position + central.length) : Buffer.alloc(0);
  return Buffer.concat([...files, central, wideEnd, end, Buffer.from(comment)]);
}

function wideEndOf(place: { count: number; length: number; position: number }, at: number): Buffer {
  const end = Buffer.alloc(56);
  end.writeUInt32LE(0x06064b50);
  u64(44).copy(end, 4);
  for (const [offset, value] of [
    [24, place.count],
    [32, place.count],
    [40, place.length],
    [48, place.position],
  ] as const) {
    u64(value).copy(end, offset);
  }
  return Buffer.concat([end, Buffer.from('PK\u0006\u0007'), u32(0), u64(at), u32(1)]);
}

export interface ArchiveOptions extends ZipOptions {
  readonly byteOrder?: string;
  readonly isTablePacked?: boolean;
  readonly isDataPacked?: boolean;
}

/** An archive of this pickle and these storages. */
export function archiveOf(
  pickle: Buffer,
  storages: Readonly<Record<string, Buffer>>,
  { byteOrder = 'little', isTablePacked = false, isDataPacked = false, ...options }: ArchiveOptions = {},
): Buffer {
  return zipOf(
    [
      { name: 'archive/data.pkl', bytes: pickle, isPacked: isTablePacked },
      { name: 'archive/byteorder', bytes: Buffer.from(byteOrder) },
      ...Object.entries(storages).map(([key, bytes]) => ({
        name: `archive/data/${key}`,
        bytes,
        isPacked: isDataPacked,
      })),
      { name: 'archive/version', bytes: Buffer.from('3\n') },
    ],
    options,
  );
}

interface Described {
  readonly table: Buffer;
  readonly storages: Readonly<Record<string, Buffer>>;
}

/** A table of these tensors under `state_dict`, the texts beside it. */
function describe(
  tensors: Readonly<Record<string, Tensor>>,
  texts: Readonly<Record<string, string>>,
  more: (key: string) => TensorOptions,
): Described {
  const storages: Record<string, Buffer> = {};
  const entries = Object.entries(tensors).map(([name, tensor], i) => {
    const key = String(i);
    const storage = STORAGES[tensor.dtype];
    if (storage === undefined) throw new RangeError(`no storage class for ${tensor.dtype}`);
    storages[key] = Buffer.from(tensorBytes(tensor));
    return [py.text(name), pickledTensor({ key, storage, shape: tensor.shape, ...more(key) })] as const;
  });
  const beside = Object.entries(texts).map(([name, text]) => [py.text(name), py.text(text)] as const);
  return { table: py.dict([[py.text('state_dict'), py.dict(entries)], ...beside]), storages };
}

/** A file as torch.save writes it. */
export function torchFileOf(
  tensors: Readonly<Record<string, Tensor>>,
  texts: Readonly<Record<string, string>> = {},
  options: ArchiveOptions = {},
): Buffer {
  const { table, storages } = describe(tensors, texts, () => ({}));
  return archiveOf(py.pickle(table), storages, options);
}

export const LEGACY_MAGIC = py.pickle(py.big('1950a86a20f9469cfc6c'));
export const legacySystem = (isLittle = true): Buffer =>
  py.pickle(py.dict([[py.text('little_endian'), isLittle ? py.yes : py.no]]));

/** A file as torch.save wrote it before 1.6. */
export function legacyTorchFileOf(
  tensors: Readonly<Record<string, Tensor>>,
  texts: Readonly<Record<string, string>> = {},
): Buffer {
  const { table, storages } = describe(tensors, texts, () => ({ view: py.none }));
  return legacyFileOf(
    py.pickle(table),
    Object.entries(storages).map(([key, bytes], i) => {
      const { data } = Object.values(tensors)[i] ?? {};
      return { key, bytes, elements: data?.length ?? 0 };
    }),
  );
}

export function legacyFileOf(
  pickle: Buffer,
  storages: readonly { readonly key: string; readonly bytes: Buffer; readonly elements: number }[],
  system = legacySystem(),
): Buffer {
  return Buffer.concat([
    LEGACY_MAGIC,
    py.pickle(py.int(1001)),
    system,
    pickle,
    py.pickle(py.list(...storages.map(({ key }) => py.text(key)))),
    ...storages.flatMap(({ bytes, elements }) => [u64(elements), bytes]),
  ]);
}
