/**
 * The vision engine on a CLIP-ViT-H of true size, made of random fp16 weights: gaussian ones, and ones with outlier channels.
 *
 *     npx tsx test/bench/true-size.ts [PYTHON [COMFYUI_CHECKOUT]]
 *
 * Prints load time, time per image, peak memory of all our processes and, for int8, the smallest cosine of any token to
 * exact arithmetic; then how near fp32 is to the machine's own limit for matrix products, requests at once against one
 * after the other, preprocessing, and memory after an idle release. With a Python that has torch and transformers, the
 * same file is run by torch in the same run; with a checkout as well, by ComfyUI `--cpu` instead. Files are made in the
 * system's temporary folder, and removed.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { serializeSafetensors } from '../../src/formats/index.js';
import { GraphBuilder } from '../../src/onnx/index.js';
import { Session, ThreadPool } from '../../src/runtime/index.js';
import { f32Tensor, u8Tensor, type F32Tensor } from '../../src/tensor/tensor.js';
import {
  PREPARE_TASK,
  presetConfig,
  writeRandomModel,
  type Precision,
  type VisionOutput,
} from '../../src/vision/index.js';
import { THREAD_ENTRY } from '../../src/workers/index.js';
import { cosineDistance } from '../support/compare.js';
import { startEngine, type TestEngine } from '../support/inference.js';
import { writeTinyModel } from '../support/tiny-model.js';

const RUNS = 5;
const BURST = 64;
const TOKENS = 257;
const [python, checkout] = process.argv.slice(2);

interface Figures {
  readonly load_and_first_s: number;
  readonly encode_ms: number;
  readonly peak_mb: number;
  readonly embeds: readonly number[];
}

/** Resident memory of this process and all its children, in megabytes. */
function residentMb(): number {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  const children = pids.filter((pid) => statOf(pid).split(') ')[1]?.split(' ')[1] === String(process.pid));
  const own = process.memoryUsage().rss;
  return children.reduce(
    (sum, pid) => sum + Number(/VmRSS:\s+(\d+)/.exec(statOf(pid, 'status'))?.[1] ?? '0') / 1000,
    own / 1e6,
  );
}

/** Empty for a process that is gone. */
function statOf(pid: string, file = 'stat'): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return '';
  }
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

async function timed(work: () => Promise<unknown>): Promise<number> {
  const begin = performance.now();
  await work();
  return performance.now() - begin;
}

async function withPeak<T>(work: () => Promise<T>): Promise<{ value: T; peakMb: number }> {
  let peakMb = residentMb();
  const sampler = setInterval(() => {
    peakMb = Math.max(peakMb, residentMb());
  }, 50);
  try {
    return { value: await work(), peakMb };
  } finally {
    clearInterval(sampler);
  }
}

interface Measured extends Figures {
  readonly output: VisionOutput;
}

async function measureOurs(
  path: string,
  pixelValues: F32Tensor,
  precision: Precision,
  dataDirectory: string,
): Promise<Measured> {
  await using started = startEngine({ dataDirectory });
  const { engine } = started;
  const encode = async (): Promise<VisionOutput> =>
    engine.encode(await engine.open(path), { pixelValues }, { precision });
  let peak = 0;
  const sampler = setInterval(() => {
    peak = Math.max(peak, residentMb());
  }, 50);
  let output: VisionOutput = {};
  const first = await timed(async () => {
    output = await encode();
  });
  const times: number[] = [];
  for (let run = 0; run < RUNS; run += 1) times.push(await timed(encode));
  clearInterval(sampler);
  return {
    load_and_first_s: first / 1000,
    encode_ms: median(times),
    peak_mb: peak,
    embeds: Array.from(output.imageEmbeds?.data ?? []),
    output,
  };
}

function measureTorch(path: string, pixelsPath: string): Figures | undefined {
  if (python === undefined) return undefined;
  const script = new URL('./torch_reference.py', import.meta.url).pathname;
  const extra = checkout === undefined ? [] : [checkout];
  const output = execFileSync(python, [script, path, pixelsPath, String(RUNS), ...extra], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  return JSON.parse(output.trim().split('\n').at(-1) ?? '') as Figures;
}

/** Smallest cosine of the image embeds and of any token of both hidden states. */
function worstCosine(got: VisionOutput, exact: VisionOutput): number {
  const fields = ['imageEmbeds', 'lastHiddenState', 'penultimateHiddenStates'] as const;
  return Math.min(
    ...fields.flatMap((field) => {
      const [a, b] = [got[field], exact[field]];
      if (a === undefined || b === undefined) throw new Error(`no ${field}`);
      const width = a.shape.at(-1) ?? 1;
      return Array.from({ length: a.data.length / width }, (_none, i) => {
        const [begin, end] = [i * width, (i + 1) * width];
        return 1 - cosineDistance(a.data.subarray(begin, end), b.data.subarray(begin, end));
      });
    }),
  );
}

/** Milliseconds that the matrix products of all layers take by themselves. */
async function matrixProductsMs(): Promise<number> {
  const timeOf = async (inputs: number, outputs: number): Promise<number> => {
    const g = new GraphBuilder('product');
    const x = g.input('x', 'F32', [TOKENS, inputs]);
    const weight = g.constant(f32Tensor([outputs, inputs], new Float32Array(inputs * outputs).fill(0.01)));
    g.output('y', g.op('Gemm', [x, weight], { transB: 1 }), [TOKENS, outputs]);
    await using session = await Session.create(g.build(), { weightsFolder: tmpdir() });
    const feed = { x: f32Tensor([TOKENS, inputs], new Float32Array(TOKENS * inputs).fill(0.5)) };
    const times: number[] = [];
    for (let run = 0; run < 15; run += 1) times.push(await timed(() => session.run(feed, ['y'])));
    return median(times);
  };
  return 32 * (4 * (await timeOf(1280, 1280)) + (await timeOf(1280, 5120)) + (await timeOf(5120, 1280)));
}

/** Throughput of many requests at once by that of one after the other. */
async function burstGain(started: TestEngine, path: string, precision: Precision, count: number): Promise<number> {
  const { engine } = started;
  const model = await engine.open(path);
  const { imageSize } = model.config;
  const pictures = Array.from({ length: count }, (_none, i) =>
    u8Tensor([1, imageSize, imageSize, 3], new Uint8Array(imageSize * imageSize * 3).fill(i)),
  );
  const encode = async (i: number): Promise<unknown> => {
    const picture = pictures[i];
    return picture === undefined ? undefined : engine.encode(model, picture, { precision });
  };
  // Sizes of batches are found by trying; that is over after the first round.
  await Promise.all(pictures.map((_picture, i) => encode(i)));
  const together = await timed(() => Promise.all(pictures.map((_picture, i) => encode(i))));
  const apart = await timed(async () => {
    for (let i = 0; i < count; i += 1) await encode(i);
  });
  return apart / together;
}

async function preprocessingMs(): Promise<number> {
  await using threads = new ThreadPool(THREAD_ENTRY);
  const images = u8Tensor([1, 2000, 3000, 3], new Uint8Array(2000 * 3000 * 3).fill(99));
  const window = { left: 56, top: 0, width: 224, height: 224 };
  const resampling = { filter: 'bicubic', width: 336, height: 224, window };
  const times: number[] = [];
  for (let run = 0; run < RUNS + 2; run += 1)
    times.push(await timed(() => threads.run(PREPARE_TASK, { input: { images, resampling } })));
  return median(times.slice(2));
}

function print(label: string, figures: Figures, reference: Figures | undefined, more = ''): void {
  const { load_and_first_s: load, encode_ms: ms, peak_mb: peak } = figures;
  const ratio = reference === undefined ? '' : ` (${(reference.encode_ms / ms).toFixed(2)}x the reference)`;
  console.log(
    `${label.padEnd(28)} load and first ${load.toFixed(1)} s   image ${ms.toFixed(0)} ms${ratio}   peak ${(peak / 1000).toFixed(2)} GB   ${more}`,
  );
}

const folder = mkdtempSync(join(tmpdir(), 'vision-bridge-true-size-'));
try {
  const preset = presetConfig('CLIP-ViT-H');
  if (preset === undefined) throw new Error('no preset');
  const values = Float32Array.from({ length: 3 * 224 * 224 }, (_none, i) => Math.sin(i * 0.37) * 1.5);
  const pixelValues = f32Tensor([1, 3, 224, 224], values);
  const pixelsPath = join(folder, 'pixels.safetensors');
  writeFileSync(pixelsPath, serializeSafetensors({ pixel_values: pixelValues }));
  const dataDirectory = join(folder, 'data');
  const referenceLabel = checkout === undefined ? 'torch, transformers fp32' : 'ComfyUI --cpu';

  for (const [kind, outlierChannels] of [
    ['gaussian', 0],
    ['8 outlier channels', 8],
  ] as const) {
    const path = join(folder, `clip-h-${outlierChannels}.safetensors`);
    await writeRandomModel(path, preset.config, { outlierChannels });
    if (process.platform !== 'win32') execFileSync('sync');
    console.log(
      `CLIP-ViT-H, ${kind}, fp16 file of ${(statSync(path).size / 1e9).toFixed(2)} GB, one 224 px image, median of ${RUNS}`,
    );
    // A virtual machine pays for memory that it touches for the first time: the first round of both is not shown.
    await measureOurs(path, pixelValues, 'comfy', dataDirectory);
    measureTorch(path, pixelsPath);
    const reference = measureTorch(path, pixelsPath);
    const ours = await measureOurs(path, pixelValues, 'comfy', dataDirectory);
    if (reference !== undefined) {
      const distance = cosineDistance(Float32Array.from(reference.embeds), Float32Array.from(ours.embeds));
      print(referenceLabel, reference, undefined, `cosine distance to ours ${distance.toExponential(1)}`);
    }
    print('vision-bridge comfy', ours, reference);
    const exact = await measureOurs(path, pixelValues, 'fp32', dataDirectory);
    const made = await withPeak(() => measureOurs(path, pixelValues, 'int8', dataDirectory));
    console.log(
      `  quantised and first image in ${made.value.load_and_first_s.toFixed(1)} s, peak ${(made.peakMb / 1000).toFixed(2)} GB`,
    );
    const int8 = await measureOurs(path, pixelValues, 'int8', dataDirectory);
    print(
      'vision-bridge int8, again',
      int8,
      reference,
      `worst cosine ${worstCosine(int8.output, exact.output).toFixed(5)}`,
    );
    if (outlierChannels > 0) continue;
    const limit = await matrixProductsMs();
    console.log(
      `  matrix products alone ${limit.toFixed(0)} ms: comfy runs at ${((100 * limit) / ours.encode_ms).toFixed(0)} % of that limit`,
    );
    {
      await using started = startEngine({ dataDirectory, maxPendingCalls: 2 * BURST, idleReleaseMs: 1000 });
      const gain = await burstGain(started, path, 'int8', BURST);
      console.log(`  ${BURST} requests at once, int8: ${gain.toFixed(2)}x one after the other`);
      const fp32 = await burstGain(started, path, 'comfy', BURST / 4);
      console.log(`  ${BURST / 4} requests at once, comfy: ${fp32.toFixed(2)}x one after the other`);
      await sleep(3000);
      console.log(`  after an idle release ${residentMb().toFixed(0)} MB`);
    }
    {
      await using started = startEngine({ maxPendingCalls: 2 * BURST });
      const tiny = join(folder, 'tiny.safetensors');
      await writeTinyModel(tiny);
      console.log(
        `  ${BURST} requests at once, tiny model: ${(await burstGain(started, tiny, 'comfy', BURST)).toFixed(2)}x one after the other`,
      );
    }
    console.log(`  preprocessing of 3000x2000, in a thread: ${(await preprocessingMs()).toFixed(0)} ms`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
