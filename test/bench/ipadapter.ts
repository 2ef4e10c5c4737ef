/**
 * What an adapter of true size adds to an encode: the projection, keys and values of all layers, and both after the
 * features are there already.
 *
 *     npx tsx test/bench/ipadapter.ts [--with-encoder]
 *
 * With the encoder, a CLIP-ViT-H of true size is made of random weights as well (1.3 GB in the system's temporary folder,
 * some 3 GB of memory), and the share of the projection is printed.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AdapterEngine, ReferenceEncoder } from '../../src/adapter/index.js';
import { FaceEngine } from '../../src/faces/index.js';
import { elementCount, f32Tensor, u8Tensor, type F32Tensor } from '../../src/tensor/tensor.js';
import { presetConfig, writeRandomModel } from '../../src/vision/index.js';
import { startEngine } from '../support/inference.js';
import { seededRandom } from '../support/random.js';
import { TRUE_SIZES, writeRandomAdapter } from '../support/random-adapter.js';

const RUNS = 9;
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

try {
  await using started = startEngine();
  const { engine: vision, inference } = started;
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
  if (withEncoder) {
    const preset = presetConfig('CLIP-ViT-H');
    if (preset === undefined) throw new Error('no preset');
    const path = join(folder, 'clip-h.safetensors');
    await writeRandomModel(path, preset.config);
    const encoder = await vision.open(path);
    const references = new ReferenceEncoder(adapters, vision, new FaceEngine(inference));
    const images = u8Tensor([1, 512, 512, 3], new Uint8Array(512 * 512 * 3).fill(90));
    const encode = await median(() => references.encode({ adapter: plus, encoder }, [{ images }]), 3);
    print(
      'CLIP-ViT-H: encode of one picture',
      encode,
      `the projection adds ${((100 * projection) / encode).toFixed(1)} %`,
    );
  }
} finally {
  rmSync(folder, { recursive: true });
}
