/**
 * What an adapter of true size adds to an encode: the projection, keys and values of all layers, and both after the
 * features are there already.
 *
 *     npx tsx test/bench/ipadapter.ts [--with-encoder [--int8-only]]
 *
 * With the encoder, a CLIP-ViT-H of true size is made of random weights as well (1.3 GB in the system's temporary folder,
 * some 3 GB of memory): the share of the projection, eight references together and apart, and references that are stored.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AdapterEngine, ReferenceEncoder } from '../../src/adapter/index.js';
import { hashRows } from '../../src/adapter/token-cache.js';
import { FaceEngine } from '../../src/faces/index.js';
import { elementCount, f32Tensor, u8Tensor, type F32Tensor, type U8Tensor } from '../../src/tensor/tensor.js';
import { presetConfig, writeRandomModel } from '../../src/vision/index.js';
import { startEngine } from '../support/inference.js';
import { seededRandom } from '../support/random.js';
import { TRUE_SIZES, writeRandomAdapter } from '../support/random-adapter.js';

const RUNS = 9;
const ENCODER_RUNS = 3;
/** Of the references' pictures, in pixels. */
const SIDE = 224;
const isInt8Only = process.argv.includes('--int8-only');
const withEncoder = process.argv.includes('--with-encoder');
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

const print = (label: string, ms: number, note = ''): void => {
  console.log(`${label.padEnd(44)} ${ms.toFixed(1).padStart(8)} ms   ${note}`);
};

/** A picture that nobody has seen: nothing that is kept helps. */
let seen = 0;
function freshPicture(): U8Tensor {
  seen += 1;
  const data = new Uint8Array(SIDE * SIDE * 3).map((_level, i) => ((i % (seen + 13)) * 7) % 251);
  return u8Tensor([1, SIDE, SIDE, 3], data);
}

/** Share of the projection, eight references against eight requests, and references that are stored, per precision. */
async function measureWithEncoder(projection: Readonly<Record<'exact' | 'int8', number>>): Promise<void> {
  const preset = presetConfig('CLIP-ViT-H');
  if (preset === undefined) throw new Error('no preset');
  const path = join(folder, 'clip-h.safetensors');
  await writeRandomModel(path, preset.config);
  await using services = startEngine({ maxFeatureBytes: 1e9 });
  const adapters = new AdapterEngine(services.inference, services);
  const references = new ReferenceEncoder(adapters, services.engine, new FaceEngine(services.inference));
  const adapter = await adapters.open(join(folder, 'plus.safetensors'));
  const pair = { adapter, encoder: await services.engine.open(path) };
  for (const precision of isInt8Only ? (['int8'] as const) : (['comfy', 'int8'] as const)) {
    const project = async (images: readonly U8Tensor[]): Promise<void> => {
      const list = images.map((picture) => ({ images: picture }));
      const embeds = await references.encode(pair, list, { precision });
      await references.project(pair, embeds, { precision });
    };
    const encode = await median(
      () => references.encode(pair, [{ images: freshPicture() }], { precision }),
      ENCODER_RUNS,
    );
    const share = (100 * projection[precision === 'int8' ? 'int8' : 'exact']) / encode;
    print(`CLIP-ViT-H ${precision}: encode of one picture`, encode, `the projection adds ${share.toFixed(1)} %`);
    const fresh = (): U8Tensor[] => Array.from({ length: 8 }, freshPicture);
    const together = await median(() => project(fresh()), ENCODER_RUNS);
    const apart = await median(() => Promise.all(fresh().map((picture) => project([picture]))), ENCODER_RUNS);
    const inTurn = await median(async () => {
      for (const picture of fresh()) await project([picture]);
    }, ENCODER_RUNS);
    print(`  eight references in one request`, together);
    print(`  eight requests one after the other`, inTurn, `${(inTurn / together).toFixed(2)} times as long`);
    print(`  eight requests at once`, apart, `${(apart / together).toFixed(2)} times as long`);
    const stored = [freshPicture()];
    await project(stored);
    await project(stored);
    print(`  a stored reference, hashing included`, await median(() => project(stored)));
    const states = randomTensor([1, 257, 1280]);
    const hashing = await median(() => hashRows({ hidden_states: states }, 1));
    print(`    of which hashing one picture's features`, hashing);
  }
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
  if (withEncoder) await measureWithEncoder({ exact: projection, int8: projectionInt8 });
} finally {
  rmSync(folder, { recursive: true });
}
