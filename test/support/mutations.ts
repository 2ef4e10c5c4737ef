/** Model files with something wrong at random: made from sound and broken ones, the same again for the same seed. */
import { open } from 'node:fs/promises';

/** A file of which only the beginning matters; the rest up to its size is a hole. */
export interface FileImage {
  readonly head: Buffer;
  readonly sizeBytes: number;
}

type Random = () => number;
type Mutation = (file: FileImage, random: Random) => FileImage;

const below = (random: Random, limit: number): number => Math.floor(random() * limit);
const pick = <T>(random: Random, items: readonly T[]): T => items[below(random, items.length)] as T;
const isWhole = ({ head, sizeBytes }: FileImage): boolean => head.length === sizeBytes;
/** A changed beginning; what is a hole keeps its length. */
const withHead = ({ sizeBytes, head: before }: FileImage, head: Buffer): FileImage => ({
  head,
  sizeBytes: sizeBytes - before.length + head.length,
});

/** Numbers that lengths and counts go wrong with. */
const EXTREMES = [
  0n,
  1n,
  7n,
  0x7fn,
  0xffn,
  0xffffn,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  1n << 53n,
  (1n << 64n) - 1n,
];
const OFFSETS = [-1, 0, 1, 3.5, 1e300, 2 ** 31, 2 ** 53, null, 'x', [], {}] as const;
const ENDINGS = ['.safetensors', '.gguf', '.onnx', '.pt', '.ckpt', '.bin', '.pth', '.sft'] as const;

/** Cut off: anywhere, or within the first bytes, where headers are. */
const truncate: Mutation = ({ head, sizeBytes }, random) => {
  const limit = pick(random, [Math.min(16, sizeBytes), Math.min(head.length, sizeBytes), sizeBytes]);
  const size = below(random, limit + 1);
  return { head: head.subarray(0, Math.min(size, head.length)), sizeBytes: size };
};

const flipBytes: Mutation = (file, random) => {
  const head = Buffer.from(file.head);
  const reach = pick(random, [64, 1024, head.length]);
  for (let i = 1 + below(random, 16); i > 0 && head.length > 0; i -= 1)
    head[below(random, Math.min(reach, head.length))] = below(random, 256);
  return withHead(file, head);
};

/** A number of four or eight bytes is another one: at the beginning, where lengths are, or at the end of an archive. */
const changeLength: Mutation = (file, random) => {
  const head = Buffer.from(file.head);
  if (head.length < 8) return withHead(file, head);
  const at = pick(random, [
    0,
    8,
    16,
    below(random, Math.min(256, head.length - 7)),
    head.length - 8 - below(random, 32),
  ]);
  const place = Math.min(Math.max(0, at), head.length - 8);
  const before = head.readBigUInt64LE(place);
  const near = [before + 1n, before - 1n, BigInt(file.sizeBytes), before * 2n].map((value) =>
    BigInt.asUintN(64, value),
  );
  const value = pick(random, [...EXTREMES, ...near]);
  if (random() < 0.5) head.writeBigUInt64LE(value, place);
  else head.writeUInt32LE(Number(BigInt.asUintN(32, value)), place);
  return withHead(file, head);
};

const appendJunk: Mutation = (file, random) => {
  const junk = Buffer.from(Array.from({ length: 1 + below(random, 4096) }, () => below(random, 256)));
  if (isWhole(file)) return withHead(file, Buffer.concat([file.head, junk]));
  return { ...file, sizeBytes: file.sizeBytes + junk.length };
};

/** A piece of the beginning is gone, is there twice, or stands elsewhere. */
const splice: Mutation = (file, random) => {
  const { head } = file;
  const [a, b] = [below(random, head.length + 1), below(random, head.length + 1)].sort((x, y) => x - y) as [
    number,
    number,
  ];
  const piece = head.subarray(a, Math.min(b, a + 4096));
  const rest = [head.subarray(0, a), head.subarray(a + piece.length)] as const;
  const middle = pick(random, [[], [piece, piece], [Buffer.from(piece).reverse()]]);
  return withHead(file, Buffer.concat([rest[0], ...middle, rest[1]]));
};

/** Entries of a safetensors header: another one's offsets, offsets that are none, names that are there twice. */
const changeTable: Mutation = (file, random) => {
  const header = headerOf(file.head);
  if (header === undefined) return flipBytes(file, random);
  const names = Object.keys(header).filter((name) => name !== '__metadata__');
  const entry = header[pick(random, names)];
  const other = header[pick(random, names)];
  if (entry === undefined || other === undefined) return flipBytes(file, random);
  const kind = below(random, 6);
  if (kind === 0) entry['data_offsets'] = other['data_offsets'];
  else if (kind === 1) entry['data_offsets'] = [pick(random, OFFSETS), pick(random, OFFSETS)];
  else if (kind === 2)
    entry['shape'] = pick(random, [[], [-1], [2 ** 40, 2 ** 40], [1.5], 'x', null, new Array(64).fill(1)]);
  else if (kind === 3) entry['dtype'] = pick(random, ['F8_X', '', 7, null, 'F64', 'BOOL', 'F4']);
  else if (kind === 4)
    entry[pick(random, ['dtype', 'shape', 'data_offsets'])] = undefined; // left out of the JSON
  else entry['data_offsets'] = [...((other['data_offsets'] as unknown[] | undefined) ?? [])].reverse();
  let json = JSON.stringify(header);
  if (random() < 0.3) json = json.replace(/^\{/, `{"${names[0] ?? ''}":${JSON.stringify(other)},`);
  const length = Buffer.alloc(8);
  const text = Buffer.from(json);
  length.writeBigUInt64LE(BigInt(text.length));
  const dataStart = 8 + Number(file.head.readBigUInt64LE());
  return withHead(file, Buffer.concat([length, text, file.head.subarray(dataStart)]));
};

const MUTATIONS = { truncate, flipBytes, changeLength, appendJunk, splice, changeTable };

type Header = Record<string, Record<string, unknown> | undefined>;

function headerOf(head: Buffer): Header | undefined {
  if (head.length < 8 || head.readBigUInt64LE() > BigInt(head.length - 8)) return undefined;
  try {
    const value = JSON.parse(head.subarray(8, 8 + Number(head.readBigUInt64LE())).toString()) as unknown;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
    const entries = Object.entries(value).filter(([name]) => name !== '__metadata__');
    const isTable = entries.length > 0 && entries.every(([, entry]) => typeof entry === 'object' && entry !== null);
    return isTable ? (value as Header) : undefined;
  } catch {
    return undefined;
  }
}

export interface Mutated extends FileImage {
  /** Names of what was done, in order. */
  readonly done: readonly string[];
  readonly ending: string;
}

/** One to three mutations, one after the other, and sometimes another ending. */
export function mutate(file: FileImage, ending: string, random: Random): Mutated {
  const done: string[] = [];
  let mutated = file;
  for (let count = 1 + below(random, 3); count > 0; count -= 1) {
    const [name, mutation] = pick(random, Object.entries(MUTATIONS));
    mutated = mutation(mutated, random);
    done.push(name);
  }
  return { ...mutated, done, ending: random() < 0.3 ? pick(random, ENDINGS) : ending };
}

/** The first bytes of a file, its header among them. */
export async function readImage(path: string, maxHeadBytes: number): Promise<FileImage> {
  const file = await open(path);
  try {
    const { size: sizeBytes } = await file.stat();
    const head = Buffer.alloc(Math.min(sizeBytes, maxHeadBytes));
    await file.read(head, 0, head.length, 0);
    return { head, sizeBytes };
  } finally {
    await file.close();
  }
}

export async function writeImage(path: string, { head, sizeBytes }: FileImage): Promise<void> {
  const file = await open(path, 'w');
  try {
    await file.write(head);
    await file.truncate(sizeBytes);
  } finally {
    await file.close();
  }
}
