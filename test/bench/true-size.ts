/**
 * The vision engine on a CLIP-ViT-H of true size, made of random fp16 weights: gaussian ones, and ones with outlier channels.
 *
 *     npm run build && npx tsx test/bench/true-size.ts [--outliers COUNT] [PYTHON [COMFYUI_CHECKOUT]]
 *     npm run build && npx tsx test/bench/true-size.ts --clip-g
 *
 * Prints load time, time per image, peak memory of all our processes and, for int8, the smallest cosine of any token to
 * exact arithmetic; then how near fp32 is to the machine's own limit for matrix products, requests at once against one
 * after the other, preprocessing, and a real server: its first answer, and its memory after an idle release. Every figure
 * is taken in a fresh process, over the built package. With a Python that has torch and transformers, the same file is
 * run by torch in the same run; with a checkout as well, by ComfyUI `--cpu` instead. `--clip-g` makes the int8 form of a
 * CLIP-ViT-bigG, and runs it, within a memory budget of 4 GB. `--outliers`
 * takes one of the two kinds of weights. Files are made in the system's temporary folder, and removed.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { parseSafetensors, serializeSafetensors } from '../../src/formats/index.js';
import { f32Tensor } from '../../src/tensor/tensor.js';
import { presetConfig, writeRandomModel } from '../../src/vision/index.js';
import { cosineDistance } from '../support/compare.js';
import { writeTinyModel } from '../support/tiny-model.js';
import { inProcess } from './true-size/in-process.js';
import type { BurstFigures, EncodeFigures, PreprocessingFigures, Task } from './true-size/row.js';
import { measureCommand, measureServed } from './true-size/served.js';

const RUNS = 5;
const BURST = 64;
const CLIP_G_BUDGET_BYTES = 4e9;
const { values: flags, positionals } = parseArgs({
  options: { 'clip-g': { type: 'boolean', default: false }, outliers: { type: 'string', multiple: true } },
  allowPositionals: true,
});
const [python, checkout] = positionals;

type Features = Readonly<Record<string, Float32Array>>;
type Measured = EncodeFigures & { readonly features: Features };

interface Scene {
  readonly folder: string;
  readonly dataDirectory: string;
  readonly pixels: string;
}

async function encode(
  { folder, dataDirectory, pixels }: Scene,
  path: string,
  precision: 'comfy' | 'fp32' | 'int8',
  memoryBudgetBytes?: number,
): Promise<Measured> {
  const target = join(folder, 'features.safetensors');
  const budget = memoryBudgetBytes === undefined ? {} : { memoryBudgetBytes };
  const task: Task = { task: 'encode', path, precision, dataDirectory, pixels, target, ...budget };
  return { ...((await inProcess(task)) as EncodeFigures), features: readFeatures(target) };
}

function readFeatures(path: string): Features {
  const { tensors } = parseSafetensors(new Uint8Array(readFileSync(path)));
  return Object.fromEntries(
    [...tensors].map(([name, { data }]) => {
      if (!(data instanceof Float32Array)) throw new Error(`${name} is not f32`);
      return [name, data.slice()];
    }),
  );
}

interface Reference extends EncodeFigures {
  readonly embeds: readonly number[];
}

function measureTorch(path: string, pixels: string): Reference | undefined {
  if (python === undefined) return undefined;
  const script = new URL('./torch_reference.py', import.meta.url).pathname;
  const extra = checkout === undefined ? [] : [checkout];
  const output = execFileSync(python, [script, path, pixels, String(RUNS), ...extra], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  return JSON.parse(output.trim().split('\n').at(-1) ?? '') as Reference;
}

/** Smallest cosine of the image embeds and of any token of both hidden states. */
function worstCosine(got: Features, exact: Features, width: number): number {
  const worst = Object.entries(exact).map(([name, wanted]) => {
    const mine = got[name] ?? new Float32Array(wanted.length);
    const length = name === 'image_embeds' ? wanted.length : width;
    const cosines = Array.from({ length: wanted.length / length }, (_none, i) => {
      const [begin, end] = [i * length, (i + 1) * length];
      return 1 - cosineDistance(mine.subarray(begin, end), wanted.subarray(begin, end));
    });
    return Math.min(...cosines);
  });
  return Math.min(...worst);
}

function print(label: string, figures: EncodeFigures, reference: EncodeFigures | undefined, more = ''): void {
  const { load_and_first_s: load, encode_ms: ms, peak_mb: peak } = figures;
  const ratio = reference === undefined ? '' : ` (${(reference.encode_ms / ms).toFixed(2)}x the reference)`;
  console.log(
    `${label.padEnd(28)} load and first ${load.toFixed(2)} s   image ${ms.toFixed(0)} ms${ratio}   peak ${(peak / 1000).toFixed(2)} GB   ${more}`,
  );
}

async function makeModel(folder: string, preset: string, outlierChannels: number): Promise<string> {
  const found = presetConfig(preset);
  if (found === undefined) throw new Error('no preset');
  const path = join(folder, `${preset}-${outlierChannels}.safetensors`);
  await writeRandomModel(path, found.config, { outlierChannels });
  if (process.platform !== 'win32') execFileSync('sync');
  return path;
}

async function benchClipH(scene: Scene): Promise<void> {
  const referenceLabel = checkout === undefined ? 'torch, transformers fp32' : 'ComfyUI --cpu';
  for (const outlierChannels of flags.outliers?.map(Number) ?? [0, 8]) {
    const path = await makeModel(scene.folder, 'CLIP-ViT-H', outlierChannels);
    const kind = outlierChannels === 0 ? 'gaussian' : `${outlierChannels} outlier channels`;
    const sizeGb = statSync(path).size / 1e9;
    console.log(
      `CLIP-ViT-H, ${kind}, fp16 file of ${sizeGb.toFixed(2)} GB, one 224 px image, median of ${RUNS}, each row a fresh process`,
    );
    // A virtual machine pays for memory that it touches for the first time: the first round of both is not shown.
    await encode(scene, path, 'comfy');
    measureTorch(path, scene.pixels);
    const reference = measureTorch(path, scene.pixels);
    const comfy = await encode(scene, path, 'comfy');
    if (reference !== undefined) {
      const embeds = comfy.features['image_embeds'] ?? new Float32Array(0);
      const distance = cosineDistance(Float32Array.from(reference.embeds), embeds);
      print(referenceLabel, reference, undefined, `cosine distance to ours ${distance.toExponential(1)}`);
    }
    const share = ({ peak_mb: peak }: EncodeFigures): string => `${(peak / 1000 / sizeGb).toFixed(2)} of the file`;
    print('vision-bridge comfy', comfy, reference, share(comfy));
    const exact = await encode(scene, path, 'fp32');
    const made = await encode(scene, path, 'int8');
    console.log(
      `  quantised and first image in ${made.load_and_first_s.toFixed(1)} s, peak ${(made.peak_mb / 1000).toFixed(2)} GB`,
    );
    const int8 = await encode(scene, path, 'int8');
    const cosine = worstCosine(int8.features, exact.features, 1280);
    print('vision-bridge int8, again', int8, reference, `${share(int8)}   worst cosine ${cosine.toFixed(5)}`);
    if (outlierChannels > 0) continue;
    await benchBeside(scene, path, comfy);
  }
}

/** What is measured on one model only. */
async function benchBeside(scene: Scene, path: string, comfy: EncodeFigures): Promise<void> {
  const { folder, dataDirectory } = scene;
  const limit = (await inProcess({ task: 'products' })) as number;
  console.log(
    `  matrix products alone ${limit.toFixed(0)} ms: comfy runs at ${((100 * limit) / comfy.encode_ms).toFixed(0)} % of that limit`,
  );
  const tiny = join(folder, 'tiny.safetensors');
  await writeTinyModel(tiny);
  const bursts = [
    [path, 'int8', BURST],
    [path, 'comfy', BURST / 4],
    [tiny, 'comfy', BURST],
  ] as const;
  for (const [model, precision, count] of bursts) {
    const task: Task = { task: 'burst', path: model, precision, count, dataDirectory };
    const { together_ms: together, apart_ms: apart } = (await inProcess(task)) as BurstFigures;
    console.log(
      `  ${count} requests at once, ${model === tiny ? 'tiny model' : precision}: ${(apart / together).toFixed(2)}x one after the other (${together.toFixed(1)} and ${apart.toFixed(1)} ms each)`,
    );
  }
  const { ms, held_ms: held } = (await inProcess({ task: 'preprocessing' })) as PreprocessingFigures;
  console.log(
    `  preprocessing of 3000x2000: ${ms.toFixed(0)} ms in a thread, ${held.toFixed(1)} ms of the server's own at most`,
  );
  const noise = { width: 640, height: 480, channels: 3, noise: { type: 'gaussian', mean: 128, sigma: 40 } } as const;
  const png = await sharp({ create: { ...noise, background: 'black' } })
    .png()
    .toBuffer();
  const picture = join(folder, 'picture.png');
  writeFileSync(picture, png);
  const seconds = measureCommand(path, dataDirectory, picture, join(folder, 'command.safetensors'));
  console.log(`  vision-bridge encode of a PNG in int8, from the command to its end: ${seconds.toFixed(2)} s`);
  const served = await measureServed(folder, path, dataDirectory, png);
  console.log(
    `  vision-bridge serve, int8: first answer ${served.first_s.toFixed(2)} s after the request (${served.start_to_first_s.toFixed(2)} s after the start), peak ${(served.peak_mb / 1000).toFixed(2)} GB, after an idle release ${served.idle_mb.toFixed(0)} MB`,
  );
}

async function benchClipG(scene: Scene): Promise<void> {
  const path = await makeModel(scene.folder, 'CLIP-ViT-bigG', 0);
  console.log(`CLIP-ViT-bigG, gaussian, fp16 file of ${(statSync(path).size / 1e9).toFixed(2)} GB, memory budget 4 GB`);
  const made = await encode(scene, path, 'int8', CLIP_G_BUDGET_BYTES);
  console.log(
    `  quantised and first image in ${made.load_and_first_s.toFixed(1)} s, peak ${(made.peak_mb / 1000).toFixed(2)} GB`,
  );
  print('vision-bridge int8, again', await encode(scene, path, 'int8', CLIP_G_BUDGET_BYTES), undefined);
}

const folder = mkdtempSync(join(tmpdir(), 'vision-bridge-true-size-'));
try {
  const values = Float32Array.from({ length: 3 * 224 * 224 }, (_none, i) => Math.sin(i * 0.37) * 1.5);
  const pixels = join(folder, 'pixels.safetensors');
  writeFileSync(pixels, serializeSafetensors({ pixel_values: f32Tensor([1, 3, 224, 224], values) }));
  const scene: Scene = { folder, dataDirectory: join(folder, 'data'), pixels };
  await (flags['clip-g'] ? benchClipG(scene) : benchClipH(scene));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
