/**
 * What an adapter of true size adds to an encode: the projection, keys and values of all layers, and both after the
 * features are there already.
 *
 *     npx tsx test/bench/ipadapter.ts [--with-encoder [--int8-only] [--stored-only] [--encoder FILE] [--data FOLDER]]
 *
 * With the encoder, a CLIP-ViT-H of true size is made of random weights as well (1.3 GB in the system's temporary folder,
 * some 3 GB of memory), or FILE is taken, with its int8 form in FOLDER: the share of the projection, eight references
 * together and apart, and references that are stored.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import {
  AdapterEngine,
  IPAdapterServiceCore,
  ReferenceEncoder,
  ReferenceImage,
  type ModelSource,
} from '../../src/adapter/index.js';
import { hashRows } from '../../src/adapter/token-cache.js';
import { sha256Of } from '../../src/common/sha256.js';
import { FaceEngine } from '../../src/faces/index.js';
import { elementCount, f32Tensor, u8Tensor, type F32Tensor, type U8Tensor } from '../../src/tensor/tensor.js';
import { presetConfig, writeRandomModel, type Precision } from '../../src/vision/index.js';
import { startEngine, type TestEngine } from '../support/inference.js';
import { seededRandom } from '../support/random.js';
import { TRUE_SIZES, writeRandomAdapter } from '../support/random-adapter.js';

const RUNS = 9;
const ENCODER_RUNS = 5;
const EIGHT = 8;
const SETTLING_RUNS = 6;
/** Of the references' pictures, in pixels. */
const SIDE = 224;
/** Of the stored reference's picture. */
const STORED_SIDE = 512;
const STORED_RUNS = 25;
const { values: flags } = parseArgs({
  options: {
    'with-encoder': { type: 'boolean' },
    'int8-only': { type: 'boolean' },
    'stored-only': { type: 'boolean' },
    encoder: { type: 'string' },
    data: { type: 'string' },
  },
});
const random = seededRandom(1);
const folder = mkdtempSync(join(tmpdir(), 'vision-bridge-bench-'));

const randomTensor = (shape: readonly number[]): F32Tensor =>
  f32Tensor(
    shape,
    Float32Array.from({ length: elementCount(shape) }, () => random() - 0.5),
  );

async function median(work: () => Promise<unknown>, runs = RUNS): Promise<number> {
  await work();
  const times: number[] = [];
  for (let run = 0; run < runs; run += 1) {
    const begin = performance.now();
    await work();
    times.push(performance.now() - begin);
  }
  return times.toSorted((a, b) => a - b)[Math.floor(runs / 2)] ?? 0;
}

/** Medians of several works whose runs take turns, so that all of them see the machine at its better and worse times. */
async function medianRounds<K extends string>(
  works: Readonly<Record<K, () => Promise<unknown>>>,
  rounds: number,
): Promise<Record<K, number>> {
  const names = Object.keys(works) as K[];
  const times = names.map((): number[] => []);
  for (let round = 0; round < rounds; round += 1) {
    for (const [i, name] of names.entries()) {
      const begin = performance.now();
      await works[name]();
      times[i]?.push(performance.now() - begin);
    }
  }
  const middle = (list: readonly number[] = []): number => list.toSorted((a, b) => a - b)[Math.floor(rounds / 2)] ?? 0;
  return Object.fromEntries(names.map((name, i) => [name, middle(times[i])])) as Record<K, number>;
}

const print = (label: string, ms: number, note = ''): void => {
  console.log(`${label.padEnd(44)} ${ms.toFixed(1).padStart(8)} ms   ${note}`);
};

/** A picture that nobody has seen, in this run or in one before it: nothing that is kept helps. */
function freshPicture(): U8Tensor {
  return u8Tensor([1, SIDE, SIDE, 3], randomBytes(SIDE * SIDE * 3));
}

/** Share of the projection, eight references against eight requests, and references that are stored, per precision. */
async function measureWithEncoder(projection: Readonly<Record<'exact' | 'int8', number>>): Promise<void> {
  const path = flags.encoder ?? (await writeEncoder());
  await using services = startEngine({
    maxFeatureBytes: 1e9,
    ...(flags.data === undefined ? {} : { dataDirectory: flags.data }),
  });
  const adapters = new AdapterEngine(services.inference, services);
  const references = new ReferenceEncoder(adapters, services.engine, new FaceEngine(services.inference));
  const adapter = await adapters.open(join(folder, 'plus.safetensors'));
  const pair = { adapter, encoder: await services.engine.open(path) };
  for (const precision of flags['int8-only'] === true ? (['int8'] as const) : (['comfy', 'int8'] as const)) {
    await measureStored(services, path, precision);
    if (flags['stored-only'] === true) continue;
    const project = (images: readonly U8Tensor[]): Promise<unknown> =>
      references.projectReferences(
        pair,
        images.map((picture) => ({ images: picture })),
        { precision },
      );
    const fresh = (): U8Tensor[] => Array.from({ length: EIGHT }, freshPicture);
    const ways = {
      together: () => project(fresh()),
      inTurn: async () => {
        for (const picture of fresh()) await project([picture]);
      },
      atOnce: () => Promise.all(fresh().map((picture) => project([picture]))),
    };
    // Until the sizes of runs are settled, and weights are packed.
    for (let run = 0; run < SETTLING_RUNS; run += 1) await ways.together();
    const encode = await median(
      () => references.encode(pair, [{ images: freshPicture() }], { precision }),
      ENCODER_RUNS,
    );
    const share = (100 * projection[precision === 'int8' ? 'int8' : 'exact']) / encode;
    print(`CLIP-ViT-H ${precision}: encode of one picture`, encode, `the projection adds ${share.toFixed(1)} %`);
    const { together, inTurn, atOnce } = await medianRounds(ways, ENCODER_RUNS);
    print(`  eight references in one request`, together);
    print(`  eight requests one after the other`, inTurn, `${(inTurn / together).toFixed(2)} times as long`);
    print(`  eight requests at once`, atOnce, `${(atOnce / together).toFixed(2)} times as long`);
    const stored = [{ images: freshPicture() }];
    const asEmbeds = async (): Promise<unknown> =>
      references.project(pair, await references.encode(pair, stored, { precision }), { precision });
    await asEmbeds();
    print(`  stored, as embeds: features read and hashed`, await median(asEmbeds));
    const states = randomTensor([1, 257, 1280]);
    const hashing = await median(() => hashRows({ hidden_states: states }, 1));
    print(`    of which hashing one picture's features`, hashing);
  }
}

async function writeEncoder(): Promise<string> {
  const preset = presetConfig('CLIP-ViT-H');
  if (preset === undefined) throw new Error('no preset');
  const path = join(folder, 'clip-h.safetensors');
  await writeRandomModel(path, preset.config);
  return path;
}

/** A picture file whose tokens are kept, by `IPAdapterService`: from its path to the tokens of both halves. */
async function measureStored(services: TestEngine, clipVisionPath: string, precision: Precision): Promise<void> {
  const { engine: vision, inference } = services;
  const adapters = new AdapterEngine(inference, services);
  const faces = new FaceEngine(inference);
  const references = new ReferenceEncoder(adapters, vision, faces);
  const none: ModelSource = {
    places: () => [],
    list: () => Promise.resolve([]),
    resolve: (name) => Promise.resolve(name),
  };
  const service = new IPAdapterServiceCore(
    { adapters, vision, faces, references, adapterFiles: none, encoderFiles: none, facePacks: none },
    { adapter: join(folder, 'plus.safetensors'), clipVisionPath, precision },
  );
  const path = join(folder, 'reference.png');
  const levels = Uint8Array.from({ length: STORED_SIDE * STORED_SIDE * 3 }, () => 256 * random());
  const raw = { width: STORED_SIDE, height: STORED_SIDE, channels: 3 } as const;
  await writeFile(path, await sharp(levels, { raw }).png().toBuffer());
  const project = async (): Promise<unknown> =>
    service.project(await service.blend([new ReferenceImage({ kind: 'file', path })]));
  const { features } = await services.store();
  // Until the weights are known, which threads find out, and all is kept.
  for (let misses = -1; misses !== features.stats().misses;) {
    ({ misses } = features.stats());
    await project();
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  const whole: number[] = [];
  const read: number[] = [];
  for (let run = 0; run < STORED_RUNS; run += 1) {
    const begin = performance.now();
    await project();
    const middle = performance.now();
    await sha256Of(await readFile(path));
    whole.push(middle - begin);
    read.push(performance.now() - middle);
  }
  const [wholeMs, readMs] = [whole, read].map(
    (times) => times.toSorted((a, b) => a - b)[Math.floor(STORED_RUNS / 2)] ?? 0,
  );
  print(`IPAdapterService ${precision}: a stored reference`, wholeMs ?? 0, `a PNG of ${STORED_SIDE} pixels`);
  print('  of which reading and hashing the picture', readMs ?? 0);
  print('  after hashing', (wholeMs ?? 0) - (readMs ?? 0));
}

try {
  await using started = startEngine();
  const { inference } = started;
  const adapters = new AdapterEngine(inference);
  for (const [name, size] of Object.entries(TRUE_SIZES))
    await writeRandomAdapter(join(folder, `${name}.safetensors`), size);
  const plus = await adapters.open(join(folder, 'plus.safetensors'));
  const base = await adapters.open(join(folder, 'base.safetensors'));
  const hidden = randomTensor([1, 257, 1280]);
  const embeds = randomTensor([1, 1024]);
  print('base: projection of one picture', await median(() => adapters.project(base, { image: embeds })));
  const projection = await median(() => adapters.project(plus, { image: hidden }));
  print('plus: projection of one picture', projection);
  const eight = randomTensor([8, 257, 1280]);
  const together = await median(() => adapters.project(plus, { image: eight }), 3);
  print('plus: eight pictures in one request', together, `${(together / 8).toFixed(1)} ms each`);
  const layers = await median(() => adapters.project(plus, { image: hidden }, { layers: 'all' }));
  print('plus: projection, keys and values', layers);
  const halves = { layers: 'all', precision: 'int8' } as const;
  const projectionInt8 = await median(() => adapters.project(plus, { image: hidden }, { precision: 'int8' }));
  print('plus: projection of one picture, int8', projectionInt8);
  print(
    'plus: projection in int8, keys and values',
    await median(() => adapters.project(plus, { image: hidden }, halves)),
  );
  if (flags['with-encoder'] === true) await measureWithEncoder({ exact: projection, int8: projectionInt8 });
} finally {
  rmSync(folder, { recursive: true });
}
