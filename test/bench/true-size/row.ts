/**
 * One measurement in a process of its own, over the built package: what came before it holds no memory.
 *
 * Gets its task as JSON from the parent, which started it with an IPC channel, and sends the result back.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { silentLogger } from '../../../src/common/logger.js';
import { parseSafetensors, serializeSafetensors } from '../../../src/formats/index.js';
import { GraphBuilder, type Value } from '../../../src/onnx/index.js';
import { Session, type Device } from '../../../src/runtime/index.js';
import type * as Runtime from '../../../src/runtime/index.js';
import { f32Tensor, u8Tensor } from '../../../src/tensor/tensor.js';
import type * as Services from '../../../src/vision-services.js';
import { featureTensors, PREPARE_TASK, type Precision, type VisionOutput } from '../../../src/vision/index.js';
import type * as Workers from '../../../src/workers/index.js';
import { withPeak } from './memory.js';

export type Task =
  | {
      readonly task: 'encode';
      readonly path: string;
      readonly precision: Precision;
      readonly dataDirectory: string;
      readonly pixels: string;
      /** Where the features go. */
      readonly target: string;
      readonly memoryBudgetBytes?: number;
      readonly device?: Device;
    }
  | {
      readonly task: 'burst';
      readonly path: string;
      readonly precision: Precision;
      readonly dataDirectory: string;
      readonly count: number;
      readonly device?: Device;
    }
  | { readonly task: 'products' | 'preprocessing' };

export interface EncodeFigures {
  readonly load_and_first_s: number;
  readonly encode_ms: number;
  readonly peak_mb: number;
}

export interface BurstFigures {
  /** Milliseconds per picture, medians over rounds. */
  readonly together_ms: number;
  readonly apart_ms: number;
}

export interface PreprocessingFigures {
  readonly ms: number;
  /** Longest time that the thread of the caller was held. */
  readonly held_ms: number;
}

export const RUNS = 5;
const ROUNDS = 3;
/** Longer than the inference process waits before it uses a pause. */
const SETTLE_MS = 2000;
const TOKENS = 257;
const LAYERS = 32;
/** So many are in memory at once. */
const PRODUCT_LAYERS = 4;

const load = async <T>(file: string): Promise<T> =>
  (await import(new URL(`../../../dist/${file}`, import.meta.url).href)) as T;

export const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

async function timed(work: () => Promise<unknown>): Promise<number> {
  const begin = performance.now();
  await work();
  return performance.now() - begin;
}

async function startServices(dataDirectory: string, memoryBudgetBytes?: number): Promise<Services.VisionServices> {
  const { createVisionServices } = await load<typeof Services>('vision-services.js');
  return createVisionServices({
    dataDirectory,
    maxFeatureBytes: 0,
    idleReleaseMs: 60_000,
    maxPendingCalls: 256,
    logger: silentLogger,
    ...(memoryBudgetBytes === undefined ? {} : { memoryBudgetBytes }),
  });
}

async function measureEncode(task: Task & { task: 'encode' }): Promise<EncodeFigures> {
  const pixelValues = parseSafetensors(new Uint8Array(readFileSync(task.pixels))).tensors.get('pixel_values');
  if (pixelValues?.dtype !== 'F32') throw new Error('no pixel values');
  await using services = await startServices(task.dataDirectory, task.memoryBudgetBytes);
  const { engine } = services;
  const encode = async (): Promise<VisionOutput> =>
    engine.encode(
      await engine.open(task.path),
      { pixelValues },
      { precision: task.precision, device: task.device ?? 'cpu' },
    );
  let output: VisionOutput = {};
  const { value, peakMb } = await withPeak(async () => {
    const first = await timed(async () => {
      output = await encode();
    });
    if (task.precision === 'int8') {
      // Weights are packed once some pictures were run and nobody waits: what comes then is the speed that lasts.
      for (let run = 0; run < RUNS; run += 1) await encode();
      await sleep(SETTLE_MS);
      await encode();
    }
    const times: number[] = [];
    for (let run = 0; run < RUNS; run += 1) times.push(await timed(encode));
    return { load_and_first_s: first / 1000, encode_ms: median(times) };
  });
  writeFileSync(task.target, serializeSafetensors(featureTensors(output)));
  return { ...value, peak_mb: peakMb };
}

/** Rounds of many requests at once and of one after the other, in turn: a machine that is busy is so for both. */
async function measureBurst({
  path,
  precision,
  dataDirectory,
  count,
  device = 'cpu',
}: Task & { task: 'burst' }): Promise<BurstFigures> {
  await using services = await startServices(dataDirectory);
  const { engine } = services;
  const model = await engine.open(path);
  const { imageSize } = model.config;
  const pictures = Array.from({ length: count }, (_none, i) =>
    u8Tensor([1, imageSize, imageSize, 3], new Uint8Array(imageSize * imageSize * 3).fill(i)),
  );
  const encodeAll = async (): Promise<unknown> =>
    Promise.all(pictures.map((picture) => engine.encode(model, picture, { precision, device })));
  // Sizes of batches are found by trying; that is over after the first round.
  await encodeAll();
  const together: number[] = [];
  const apart: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    together.push(await timed(encodeAll));
    apart.push(
      await timed(async () => {
        for (const picture of pictures) await engine.encode(model, picture, { precision, device });
      }),
    );
  }
  return { together_ms: median(together) / count, apart_ms: median(apart) / count };
}

/**
 * Milliseconds that the matrix products of all layers of a CLIP-ViT-H take by themselves: those of some layers in one graph,
 * one after the other, so that nothing but the last result is handed out.
 */
async function measureProducts(): Promise<number> {
  const [width, wide] = [1280, 5120];
  const g = new GraphBuilder('products');
  const product = (x: Value, inputs: number, outputs: number): Value => {
    const weight = g.constant(f32Tensor([outputs, inputs], new Float32Array(inputs * outputs).fill(1 / inputs)));
    return g.op('Gemm', [x, weight], { transB: 1 });
  };
  let x = g.input('x', 'F32', [TOKENS, width]);
  for (let layer = 0; layer < PRODUCT_LAYERS; layer += 1) {
    for (let i = 0; i < 4; i += 1) x = product(x, width, width);
    x = product(product(x, width, wide), wide, width);
  }
  g.output('y', x, [TOKENS, width]);
  await using session = await Session.create(g.build(), { weightsFolder: tmpdir() });
  const feed = { x: f32Tensor([TOKENS, width], new Float32Array(TOKENS * width).fill(0.5)) };
  await session.run(feed, ['y']);
  const times: number[] = [];
  for (let run = 0; run < 7; run += 1) times.push(await timed(() => session.run(feed, ['y'])));
  return (LAYERS / PRODUCT_LAYERS) * median(times);
}

/** A decoded picture of 3000x2000 pixels, handed over as the engine hands it over. */
async function measurePreprocessing(): Promise<PreprocessingFigures> {
  const { ThreadPool } = await load<typeof Runtime>('runtime/index.js');
  const { THREAD_ENTRY } = await load<typeof Workers>('workers/index.js');
  await using threads = new ThreadPool(THREAD_ENTRY);
  const window = { left: 56, top: 0, width: 224, height: 224 };
  const resampling = { filter: 'bicubic', width: 336, height: 224, window };
  const times: number[] = [];
  const held: number[] = [];
  for (let run = 0; run < RUNS + 2; run += 1) {
    const images = u8Tensor([1, 2000, 3000, 3], new Uint8Array(2000 * 3000 * 3).fill(99));
    const moved = [images.data.buffer as ArrayBuffer];
    let answer: Promise<unknown> = Promise.resolve();
    const ms = timed(async () => {
      const begin = performance.now();
      answer = threads.run(PREPARE_TASK, { input: { images, resampling } }, { moved });
      held.push(performance.now() - begin);
      await answer;
    });
    times.push(await ms);
  }
  return { ms: median(times.slice(2)), held_ms: Math.max(...held.slice(2)) };
}

async function measure(task: Task): Promise<unknown> {
  switch (task.task) {
    case 'encode':
      return measureEncode(task);
    case 'burst':
      return measureBurst(task);
    case 'products':
      return measureProducts();
    case 'preprocessing':
      return measurePreprocessing();
  }
}

if (process.send !== undefined) {
  const result = await measure(JSON.parse(process.argv[2] ?? '') as Task);
  process.send(result, () => {
    process.disconnect();
  });
}
