import { access, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BridgeError } from '../../../src/common/errors.js';
import { inspectPickle, parseSafetensors, readModelHeader, readTensor } from '../../../src/formats/index.js';
import { f8ToF32Array } from '../../../src/tensor/float8.js';
import { f32Tensor, tensorBytes } from '../../../src/tensor/tensor.js';
import {
  archiveOf,
  legacyFileOf,
  LEGACY_MAGIC,
  legacySystem,
  legacyTorchFileOf,
  pickledTensor,
  py,
  torchFileOf,
  zipOf,
} from '../../support/torch-files.js';

const FIXTURES = join(import.meta.dirname, '../../fixtures/torch');
const fixture = (name: string): string => join(FIXTURES, name);

let folder = '';
let count = 0;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-torch-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function fileOf(bytes: Uint8Array): Promise<string> {
  count += 1;
  const path = join(folder, `${count}.bin`);
  await writeFile(path, bytes);
  return path;
}

const DATA = Buffer.from(Float32Array.of(1, 2, 3, 4).buffer);
const TENSOR = pickledTensor();
const TABLE = py.pickle(py.dict([[py.text('w'), TENSOR]]));
const SYSTEM = py.global('posix', 'system');

describe('a file that torch.save wrote', () => {
  it.each(['table.bin', 'table-protocol-4.bin', 'table-legacy.pt'])(
    '%s has the tensors that safetensors has, byte for byte',
    async (name) => {
      const { tensors } = parseSafetensors(await readFile(fixture('table.safetensors')));
      const header = await readModelHeader(fixture(name));
      expect(header.container).toBe('torch');
      expect([...header.strided.keys()]).toEqual(['transposed', 'columns']);
      expect([...header.tensors.keys(), ...header.strided.keys()].toSorted()).toEqual([...tensors.keys()].toSorted());
      for (const [key] of header.tensors) expect(await readTensor(header, key)).toEqual(tensors.get(key));
      expect(header.strided.get('transposed')).toMatchObject({ dtype: 'F32', shape: [6, 4], strides: [1, 6] });
      await expect(readTensor(header, 'transposed')).rejects.toMatchObject({ code: 'TENSOR_MISSING' });
    },
  );

  it('has the newest dtypes, and both 8-bit floats widen as torch widens them', async () => {
    const { tensors } = parseSafetensors(await readFile(fixture('new-dtypes.safetensors')));
    const header = await readModelHeader(fixture('new-dtypes.bin'));
    expect([...header.tensors.values()].map(({ dtype }) => dtype)).toEqual(['F8_E4M3', 'F8_E5M2', 'U16']);
    for (const [key] of header.tensors) expect(await readTensor(header, key)).toEqual(tensors.get(key));
    const codes = Uint8Array.from({ length: 256 }, (_none, i) => i);
    expect(f8ToF32Array('F8_E4M3', codes)).toEqual(tensors.get('e4m3.f32')?.data);
    expect(f8ToF32Array('F8_E5M2', codes)).toEqual(tensors.get('e5m2.f32')?.data);
  });

  it('as a checkpoint gives its state_dict, and the numbers and texts beside it', async () => {
    const header = await readModelHeader(fixture('lightning.ckpt'));
    expect([...header.tensors.keys()]).toEqual(['weight', 'bias']);
    expect(header.metadata.get('epoch')).toBe('3');
    expect(header.metadata.get('pytorch-lightning_version')).toBe('1.4.2');
    const { imports } = await inspectPickle(fixture('lightning.ckpt'));
    expect(imports.map(({ verdict }) => verdict)).toEqual(imports.map(() => 'harmless'));
  });

  it('of a whole module is refused by the name of its class, and can still be described', async () => {
    await expect(readModelHeader(fixture('module.pt'))).rejects.toMatchObject({
      code: 'PICKLE_REFUSED',
      message: expect.stringContaining('torch.nn.modules.linear.Linear') as string,
      details: { asksFor: ['torch.nn.modules.linear.Linear'], dangerous: [] },
    });
    const { imports, tensors, problem } = await inspectPickle(fixture('module.pt'));
    expect(imports[0]).toEqual({ name: 'torch.nn.modules.linear.Linear', verdict: 'unknown' });
    expect(tensors.map(({ shape }) => shape)).toEqual([[2, 2], [2]]);
    expect(problem).toBeUndefined();
  });
});

describe('a file of our own making', () => {
  const tensors = { a: f32Tensor([2, 3], Float32Array.of(1, 2, 3, 4, 5, 6)), b: f32Tensor([], Float32Array.of(7)) };

  it.each([
    ['an archive', torchFileOf(tensors, { note: 'x' })],
    ['an archive of 64-bit sizes', torchFileOf(tensors, { note: 'x' }, { is64: true })],
    ['an archive with a comment', torchFileOf(tensors, { note: 'x' }, { comment: 'PK and more' })],
    ['an archive with a packed table', torchFileOf(tensors, { note: 'x' }, { isTablePacked: true })],
    ['a run of pickles', legacyTorchFileOf(tensors, { note: 'x' })],
  ])('%s gives back what was written', async (_what, bytes) => {
    const header = await readModelHeader(await fileOf(bytes));
    expect(header.metadata.get('note')).toBe('x');
    for (const [name, tensor] of Object.entries(tensors)) {
      const read = await readTensor(header, name);
      expect([read.dtype, read.shape, tensorBytes(read)]).toEqual([tensor.dtype, tensor.shape, tensorBytes(tensor)]);
    }
  });

  it('is unwrapped as ComfyUI unwraps it: a state_dict, an only table, or nothing', async () => {
    const table = py.dict([[py.text('w'), TENSOR]]);
    for (const [root, names] of [
      [
        py.dict([
          [py.text('state_dict'), table],
          [py.text('w2'), TENSOR],
        ]),
        ['w'],
      ],
      [py.dict([[py.text('params_ema'), table]]), ['w']],
      [
        py.dict([
          [py.text('image_proj'), table],
          [py.text('ip_adapter'), table],
        ]),
        ['image_proj.w', 'ip_adapter.w'],
      ],
    ] as const) {
      const header = await readModelHeader(await fileOf(archiveOf(py.pickle(root), { 0: DATA })));
      expect([...header.tensors.keys()]).toEqual(names);
    }
  });
});

const entries = [
  { name: 'archive/data.pkl', bytes: TABLE },
  { name: 'archive/data/0', bytes: DATA },
];
const sound = zipOf(entries);

describe('a hostile archive', () => {
  it.each([
    ['cut in the middle', sound.subarray(0, sound.length >> 1), /no directory at its end/],
    ['cut by one byte', sound.subarray(0, -1), /no directory at its end/],
    ['with a file before it', Buffer.concat([sound, sound]), /not where its end says/],
    ['with a directory of 60,000 entries', zipOf(entries, { says: { count: 60_000 } }), /is malformed|entry 2/],
    ['with a directory of 4 GB', zipOf(entries, { says: { length: 0xfffffff0 } }), /not where its end says/],
    ['with a directory of 2^62 bytes', zipOf(entries, { is64: true, says: { length: 2 ** 62 } }), /size or place/],
    [
      'with a directory of 2^40 entries',
      zipOf(entries, { is64: true, says: { count: 2 ** 40 } }),
      /claims 1099511627776/,
    ],
    ['without a table', zipOf(entries.slice(1)), /no data\.pkl/],
    ['with two tables', zipOf([...entries, { name: 'other/data.pkl', bytes: TABLE }]), /two tables/],
    ['with a table twice', zipOf([...entries, ...entries.slice(0, 1)]), /"archive\/data.pkl" twice/],
    ['without the data', zipOf(entries.slice(0, 1)), /lacks the data of a tensor, "archive\/data\/0"/],
    ['with too little data', archiveOf(TABLE, { 0: DATA.subarray(4) }), /12 bytes of the 16/],
    [
      'with packed data',
      archiveOf(TABLE, { 0: DATA }, { isDataPacked: true }),
      /packed.*save it again with torch\.save/,
    ],
    [
      'with encrypted data',
      zipOf([
        { name: 'a/data.pkl', bytes: TABLE },
        { name: 'a/data/0', bytes: DATA, flags: 1 },
      ]),
      /encrypted/,
    ],
    [
      'with data beyond its end',
      zipOf([
        { name: 'a/data.pkl', bytes: TABLE },
        { name: 'a/data/0', bytes: DATA, says: { offset: 0x7fffffff } },
      ]),
      /beyond its data/,
    ],
    [
      'with data larger than itself',
      zipOf([
        { name: 'a/data.pkl', bytes: TABLE },
        { name: 'a/data/0', bytes: DATA, says: { size: 1e9, stored: 1e9 } },
      ]),
      /beyond its data/,
    ],
    [
      'with data under another name',
      zipOf([
        { name: 'a/data.pkl', bytes: TABLE },
        { name: 'a/data/1', bytes: DATA, says: { name: 'a/data/0' } },
      ]),
      /not where its directory says/,
    ],
    [
      'with a table that claims another size',
      zipOf([{ name: 'a/data.pkl', bytes: TABLE, isPacked: true, says: { size: 10 } }]),
      /cannot be unpacked|another size/,
    ],
    [
      'with a table of 3 GB in 3 MB',
      zipOf([{ name: 'a/data.pkl', bytes: Buffer.alloc(2 ** 20), isPacked: true, says: { size: 3e9 } }]),
      /the limit is/,
    ],
    ['of big-endian numbers', archiveOf(TABLE, { 0: DATA }, { byteOrder: 'big' }), /byte order "big"/],
    ['that is a program', zipOf([...entries, { name: 'archive/constants.pkl', bytes: TABLE }]), /TorchScript/],
  ])('%s is refused, naming what is wrong', async (_what, bytes, message) => {
    const path = await fileOf(bytes);
    await expect(readModelHeader(path)).rejects.toMatchObject({
      code: 'TORCH_INVALID',
      message: expect.stringMatching(message) as string,
    });
    expect((await inspectPickle(path)).problem).toMatch(message);
  });
});

const zipped = (root: Buffer): Buffer => archiveOf(py.pickle(root), { 0: DATA });
const tensorOf = (options: Parameters<typeof pickledTensor>[0]): Buffer =>
  zipped(py.dict([[py.text('w'), pickledTensor(options)]]));

describe('a hostile pickle', () => {
  it.each([
    ['that ends early', archiveOf(TABLE.subarray(0, 40), { 0: DATA }), /ends in the middle/],
    ['of no instructions', archiveOf(Buffer.alloc(0), { 0: DATA }), /ends in the middle/],
    ['of an unknown instruction', zipped(Buffer.of(0xff)), /unknown instruction 255/],
    ['of the protocol 9', archiveOf(Buffer.of(0x80, 9, 0x4e, 0x2e), {}), /protocol 9/],
    ['that takes from an empty stack', zipped(Buffer.from('a')), /where there is none/],
    ['that goes back to no mark', zipped(Buffer.from('t')), /a mark that it did not set/],
    ['that remembers what it never noted', zipped(Buffer.from('h\u0007', 'latin1')), /never noted/],
    ['of 10,000 marks', zipped(Buffer.from('('.repeat(10_000))), /nested more than/],
    [
      'that claims a text of 4 GB',
      zipped(Buffer.concat([Buffer.from('X'), Buffer.alloc(4, 255)])),
      /ends in the middle/,
    ],
    [
      'that claims a text of 2^63 bytes',
      zipped(Buffer.concat([Buffer.of(0x8d), Buffer.alloc(8, 127)])),
      /claims a text/,
    ],
    [
      'with a number of 2 GB',
      zipped(Buffer.concat([Buffer.of(0x8b), Buffer.alloc(3, 255), Buffer.of(127)])),
      /a number of/,
    ],
    ['of five million instructions', zipped(Buffer.from('N0'.repeat(2_500_000))), /more than 4000000 instructions/],
    ['that is a list', zipped(py.list(TENSOR)), /a list, not a table/],
    ['that is one tensor', zipped(TENSOR), /a single tensor, not a table/],
    ['whose state_dict is a number', zipped(py.dict([[py.text('state_dict'), py.int(1)]])), /state_dict is a number/],
    [
      'that sets a key of a number',
      zipped(Buffer.concat([py.int(1), py.int(2), py.int(3), Buffer.from('s')])),
      /no table/,
    ],
    ['that appends to a text', zipped(Buffer.concat([py.text('x'), py.int(3), Buffer.from('a')])), /no list/],
    ['that refers to no storage', zipped(py.persistent(py.text('x'))), /no storage/],
    ['with a storage without a size', zipped(py.persistent(py.tuple(py.text('storage'), py.none))), /without a class/],
    ['with a tensor beyond its storage', tensorOf({ elements: 3 }), /needs 16 bytes of a storage of 12/],
    ['with an offset beyond its storage', tensorOf({ elements: 4, offset: 1 }), /needs 20 bytes/],
    ['with strides beyond its storage', tensorOf({ elements: 4, strides: [1000, 1] }), /needs 4008 bytes/],
    ['with a negative stride', tensorOf({ strides: [-1, 1] }), /strides is no list of whole numbers/],
    ['with a negative side', tensorOf({ shape: [-2, -2], strides: [1, 1], elements: 4 }), /shape is no list/],
    [
      'with a shape beyond all numbers',
      tensorOf({ shape: [2 ** 30, 2 ** 30], strides: [0, 0], elements: 4 }),
      /absurd/,
    ],
    ['with more strides than sides', tensorOf({ strides: [2, 1, 1] }), /do not fit each other/],
    ['with 65 sides', tensorOf({ shape: Array<number>(65).fill(1), elements: 4 }), /65 dimensions/],
    [
      'that describes one storage in two sizes',
      zipped(
        py.dict([
          [py.text('a'), pickledTensor({ elements: 1e6 })],
          [py.text('b'), TENSOR],
        ]),
      ),
      /"0" twice, in different sizes/,
    ],
    [
      'with two tensors of one name',
      zipped(
        py.dict([
          [py.text('a.w'), TENSOR],
          [py.text('a'), py.dict([[py.text('w'), TENSOR]])],
        ]),
      ),
      /two tensors of the name "a\.w"/,
    ],
    [
      'of tables 40 deep',
      zipped(
        Array.from({ length: 40 }).reduce(
          (table: Buffer) =>
            py.dict([
              [py.text('x'), table],
              [py.text('y'), py.none],
            ]),
          TENSOR,
        ),
      ),
      /nested more than 16 deep/,
    ],
    ['of old files with big-endian numbers', legacyFileOf(TABLE, [], legacySystem(false)), /byte order "big"/],
    ['of old files without storages', legacyFileOf(TABLE, []), /lacks the data/],
    [
      'of old files cut in the data',
      legacyFileOf(TABLE, [{ key: '0', bytes: DATA.subarray(8), elements: 4 }]),
      /truncated/,
    ],
    [
      'of old files with other sizes',
      legacyFileOf(TABLE, [{ key: '0', bytes: DATA, elements: 2 ** 50 }]),
      /in place of 16/,
    ],
    [
      'of old files of unknown storages',
      legacyFileOf(TABLE, [{ key: 'x', bytes: DATA, elements: 4 }]),
      /of no known size/,
    ],
    ['of old files cut after the first pickle', LEGACY_MAGIC, /ends in the middle/],
    ['without an archive around it', TABLE, /not in it/],
  ])('%s is refused, naming what is wrong', async (_what, bytes, message) => {
    const path = await fileOf(bytes);
    await expect(readModelHeader(path)).rejects.toMatchObject({
      code: 'TORCH_INVALID',
      message: expect.stringMatching(message) as string,
    });
    await inspectPickle(path);
  });

  it('that holds itself, or one table a million times, is read in an instant', async () => {
    const nested = Array.from({ length: 14 }).reduce<Buffer>(
      (table) => Buffer.concat([table, Buffer.from('q\u0001'), Buffer.from('0](h\u0001h\u0001e')]),
      Buffer.from(']'),
    );
    const own = Buffer.concat([
      Buffer.from('}q\u0002'),
      py.text('self'),
      Buffer.from('h\u0002s'),
      py.text('w'),
      TENSOR,
      Buffer.from('s'),
    ]);
    const header = await readModelHeader(await fileOf(zipped(own)));
    expect([...header.tensors.keys()]).toEqual(['w']);
    expect((await inspectPickle(await fileOf(zipped(nested)))).tensors).toEqual([]);
  });

  it('of random bytes, or a real one with some changed, never gives anything but a catalogue error', async () => {
    const real = [await readFile(fixture('table.bin')), await readFile(fixture('table-legacy.pt'))];
    const changes = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), changes, fc.boolean(), async (random, spots, isLegacy) => {
        const changed = Buffer.from(real[isLegacy ? 1 : 0] ?? []);
        for (const [at, value] of spots) changed[at % changed.length] = value;
        for (const bytes of [
          changed,
          archiveOf(Buffer.from(random), {}),
          Buffer.concat([Buffer.of(0x80, 2), random]),
        ]) {
          const path = join(folder, 'fuzz.bin');
          await writeFile(path, bytes);
          await inspectPickle(path);
          try {
            await readModelHeader(path);
          } catch (error) {
            expect(error).toBeInstanceOf(BridgeError);
          }
        }
      }),
      { numRuns: 150 },
    );
  });
});

it('lets through every name that torch itself lets through', async () => {
  const names = JSON.parse(await readFile(fixture('allowed-names.json'), 'utf8')) as string[];
  const imports = names.map((name) =>
    py.global(name.slice(0, name.lastIndexOf('.')), name.slice(name.lastIndexOf('.') + 1)),
  );
  const inspected = await inspectPickle(await fileOf(py.pickle(py.list(...imports))));
  expect(inspected.imports).toEqual(names.map((name) => ({ name, verdict: 'harmless' })));
});

describe('a pickle that asks for more than tensors', () => {
  const marker = (): string => join(folder, 'executed');
  const run = (callable: Buffer): Buffer => py.call(callable, py.text(`touch ${marker()}`));
  const beside = (value: Buffer): Buffer =>
    py.dict([
      [py.text('w'), TENSOR],
      [py.text('x'), value],
    ]);
  const eval2 = py.global('__builtin__', 'eval');
  const memoized = Buffer.concat([
    py.text('posix'),
    Buffer.from('q\u0005'),
    Buffer.from('0h\u0005'),
    py.text('system'),
    Buffer.of(0x93),
  ]);

  it.each([
    ['by GLOBAL', 'posix.system', () => zipped(beside(run(SYSTEM)))],
    ['by STACK_GLOBAL', 'posix.system', () => zipped(beside(run(py.stackGlobal(py.text('posix'), py.text('system')))))],
    ['by names from the memo', 'posix.system', () => zipped(beside(run(memoized)))],
    [
      'by INST',
      'os.system',
      () => zipped(beside(Buffer.concat([Buffer.from('('), py.text('x'), Buffer.from('ios\nsystem\n')]))),
    ],
    [
      'by OBJ',
      'nt.system',
      () =>
        zipped(beside(Buffer.concat([Buffer.from('('), py.global('nt', 'system'), py.text('x'), Buffer.from('o')]))),
    ],
    [
      'by NEWOBJ',
      'subprocess.Popen',
      () => zipped(beside(Buffer.concat([py.global('subprocess', 'Popen'), py.tuple(py.text('x')), Buffer.of(0x81)]))),
    ],
    ["by Python 2's names", '__builtin__.eval', () => zipped(beside(run(eval2)))],
    [
      'by a name that it computes',
      '(a computed name)',
      () => zipped(beside(run(py.stackGlobal(py.call(py.global('_codecs', 'encode')), py.text('system'))))),
    ],
    ['by a name with dots', 'torch.hub.os.system', () => zipped(beside(run(py.global('torch.hub', 'os.system'))))],
    [
      'by an attribute of a harmless module',
      'torch._utils._import_dotted_name',
      () => zipped(beside(run(py.global('torch._utils', '_import_dotted_name')))),
    ],
    [
      'in a pickle within the pickle',
      'torch.storage._load_from_bytes',
      () => zipped(beside(run(py.global('torch.storage', '_load_from_bytes')))),
    ],
    [
      'and breaks off after that',
      'posix.system',
      () => archiveOf(py.pickle(beside(run(SYSTEM))).subarray(0, -3), { 0: DATA }),
    ],
    [
      'in a packed table',
      'posix.system',
      () => archiveOf(py.pickle(beside(run(SYSTEM))), { 0: DATA }, { isTablePacked: true }),
    ],
    [
      'in another pickle of the archive',
      'posix.system',
      () => zipOf([...entries, { name: 'archive/extra/evil.pkl', bytes: py.pickle(run(SYSTEM)) }]),
    ],
    ['in the first pickle of an old file', 'posix.system', () => py.pickle(run(SYSTEM))],
    ['in the third pickle of an old file', 'posix.system', () => legacyFileOf(TABLE, [], py.pickle(run(SYSTEM)))],
    [
      'in the last pickle of an old file',
      'posix.system',
      () => Buffer.concat([LEGACY_MAGIC, py.pickle(py.int(1001)), legacySystem(), TABLE, py.pickle(run(SYSTEM))]),
    ],
    [
      'in a second pickle that nobody asked for',
      'posix.system',
      () => Buffer.concat([py.pickle(py.int(1)), py.pickle(run(SYSTEM))]),
    ],
    ['in text form', 'posix.system', () => Buffer.from("cposix\nsystem\n(S'echo'\ntR.")],
  ])('%s is refused by that name, and nothing is executed', async (_what, name, make) => {
    const path = await fileOf(make());
    const refusal = await readModelHeader(path).catch((error: unknown) => error);
    expect(refusal).toMatchObject({ code: 'PICKLE_REFUSED', details: { asksFor: [name], dangerous: [name] } });
    expect((refusal as Error).message).toContain(name);
    const { imports } = await inspectPickle(path);
    expect(imports).toContainEqual({ name, verdict: 'dangerous' });
    await expect(access(marker())).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('by the extension registry is refused too', async () => {
    await expect(readModelHeader(await fileOf(zipped(beside(Buffer.of(0x82, 7)))))).rejects.toMatchObject({
      code: 'PICKLE_REFUSED',
      details: { asksFor: ['copyreg.extension 7'] },
    });
  });

  it('that is not dangerous but unknown is refused and told apart', async () => {
    const path = await fileOf(zipped(beside(run(py.global('argparse', 'Namespace')))));
    await expect(readModelHeader(path)).rejects.toMatchObject({
      code: 'PICKLE_REFUSED',
      details: { asksFor: ['argparse.Namespace'], dangerous: [] },
    });
    const { imports, tensors } = await inspectPickle(path);
    expect(imports).toContainEqual({ name: 'argparse.Namespace', verdict: 'unknown' });
    expect(tensors.map(({ name }) => name)).toEqual(['w']);
  });
});
