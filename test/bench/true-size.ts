/**
 * A CLIP-ViT-H of true size, made of random fp16 weights: load time, time per image and peak memory of all our processes.
 *
 *     npx tsx test/bench/true-size.ts [PYTHON [COMFYUI_CHECKOUT]]
 *
 * With a Python that has torch and transformers, the same file is run by torch in the same run; with a checkout as well,
 * by ComfyUI `--cpu` instead. The image embeds are compared. The file is made in the system's temporary folder, and removed.
 */
import { execFileSync } from 'node:child_process';
import { createReadStream, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { serializeSafetensors } from '../../src/formats/index.js';
import { f32Tensor, type F32Tensor } from '../../src/tensor/tensor.js';
import { presetConfig, writeRandomModel, type VisionOutput } from '../../src/vision/index.js';
import { cosineDistance } from '../support/compare.js';
import { startEngine } from '../support/inference.js';

const RUNS = 5;
const [python, checkout] = process.argv.slice(2);

interface Figures {
  readonly load_and_first_s: number;
  readonly encode_ms: number;
  readonly peak_mb: number;
  readonly embeds: readonly number[];
}

/** Resident memory of this process and all its children, in megabytes. */
function residentMb(): number {
  const children = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ')[1] === String(process.pid);
      } catch {
        return false;
      }
    });
  const own = process.memoryUsage().rss;
  return children.reduce((sum, pid) => {
    try {
      const kilobytes = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '0';
      return sum + Number(kilobytes) / 1000;
    } catch {
      return sum;
    }
  }, own / 1e6);
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

async function measureOurs(path: string, pixelValues: F32Tensor): Promise<Figures> {
  await using started = startEngine();
  const { engine } = started;
  let peak = 0;
  const sampler = setInterval(() => {
    peak = Math.max(peak, residentMb());
  }, 100);
  const encode = async (): Promise<VisionOutput> => engine.encode(await engine.open(path), { pixelValues });
  const begin = performance.now();
  const { imageEmbeds } = await encode();
  const first = performance.now() - begin;
  const times: number[] = [];
  for (let run = 0; run < RUNS; run += 1) {
    const runBegin = performance.now();
    await encode();
    times.push(performance.now() - runBegin);
  }
  clearInterval(sampler);
  return {
    load_and_first_s: first / 1000,
    encode_ms: median(times),
    peak_mb: peak,
    embeds: Array.from(imageEmbeds?.data ?? []),
  };
}

function print(
  label: string,
  { load_and_first_s: load, encode_ms: ms, peak_mb: peak, embeds }: Figures,
  ours: Figures,
): void {
  const distance = cosineDistance(Float32Array.from(embeds), Float32Array.from(ours.embeds));
  console.log(
    `${label.padEnd(26)} load and first ${load.toFixed(1)} s   image ${ms.toFixed(0)} ms (${(ms / ours.encode_ms).toFixed(2)}x)   peak ${(peak / 1000).toFixed(2)} GB   cosine distance ${distance.toExponential(1)}`,
  );
}

const folder = mkdtempSync(join(tmpdir(), 'vision-bridge-true-size-'));
try {
  const preset = presetConfig('CLIP-ViT-H');
  if (preset === undefined) throw new Error('no preset');
  const path = join(folder, 'clip-h.safetensors');
  await writeRandomModel(path, preset.config);
  // Nobody shall pay for writing the new file to disk, or for being the first to read it.
  if (process.platform !== 'win32') execFileSync('sync');
  await pipeline(
    createReadStream(path),
    new Writable({
      write: (_chunk, _encoding, done) => {
        done();
      },
    }),
  );
  const values = Float32Array.from({ length: 3 * 224 * 224 }, (_none, i) => Math.sin(i * 0.37) * 1.5);
  const pixelValues = f32Tensor([1, 3, 224, 224], values);
  const pixelsPath = join(folder, 'pixels.safetensors');
  writeFileSync(pixelsPath, serializeSafetensors({ pixel_values: pixelValues }));
  console.log(
    `CLIP-ViT-H, fp16 file of ${(statSync(path).size / 1e9).toFixed(2)} GB, one 224 px image, median of ${RUNS}`,
  );

  const measureTorch = (): Figures | undefined => {
    if (python === undefined) return undefined;
    const script = new URL('./torch_reference.py', import.meta.url).pathname;
    const extra = checkout === undefined ? [] : [checkout];
    const output = execFileSync(python, [script, path, pixelsPath, String(RUNS), ...extra], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    return JSON.parse(output.trim().split('\n').at(-1) ?? '') as Figures;
  };
  // A virtual machine pays for memory that it touches for the first time: the first round of both is not shown.
  await measureOurs(path, pixelValues);
  measureTorch();
  const ours = await measureOurs(path, pixelValues);
  const theirs = measureTorch();
  print('vision-bridge', ours, ours);
  if (theirs !== undefined) print(checkout === undefined ? 'torch, transformers fp32' : 'ComfyUI --cpu', theirs, ours);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
