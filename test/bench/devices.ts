/**
 * A CLIP-ViT-H of true size (random fp16 weights) on every device that works here, beside the CPU.
 *
 *     npm run build && npx tsx test/bench/devices.ts [PYTHON]
 *
 * Prints for each device: load and first image, time per image (one at a time, and of 32 at once), and the largest
 * cosine distance of any output to the CPU's. With a Python whose torch sees a GPU, transformers' fp32 on it as well.
 * Every row is a fresh process over the built package.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { messageOf } from '../../src/common/errors.js';
import { parseSafetensors, serializeSafetensors } from '../../src/formats/index.js';
import { DEVICES } from '../../src/runtime/index.js';
import { f32Tensor } from '../../src/tensor/tensor.js';
import { presetConfig, writeRandomModel } from '../../src/vision/index.js';
import { cosineDistance } from '../support/compare.js';
import { inProcess } from './true-size/in-process.js';
import type { BurstFigures, EncodeFigures } from './true-size/row.js';

const RUNS = 20;
const BURST = 32;
const [python] = process.argv.slice(2);

const folder = mkdtempSync(join(tmpdir(), 'vision-bridge-devices-'));

function readFeatures(path: string): [string, Float32Array][] {
  const { tensors } = parseSafetensors(new Uint8Array(readFileSync(path)));
  return [...tensors].flatMap(([name, { data }]) => (data instanceof Float32Array ? [[name, data.slice()]] : []));
}

try {
  const pixels = join(folder, 'pixels.safetensors');
  const values = Float32Array.from({ length: 3 * 224 * 224 }, (_none, i) => Math.sin(i * 0.37) * 1.5);
  writeFileSync(pixels, serializeSafetensors({ pixel_values: f32Tensor([1, 3, 224, 224], values) }));
  const preset = presetConfig('CLIP-ViT-H');
  if (preset === undefined) throw new Error('no preset');
  const path = join(folder, 'clip-h.safetensors');
  await writeRandomModel(path, preset.config, {});
  const dataDirectory = join(folder, 'data');
  const common = { path, precision: 'comfy', dataDirectory } as const;
  let exact: [string, Float32Array][] | undefined;
  const order = ['cpu', ...DEVICES.filter((device) => device !== 'cpu' && device !== 'auto'), 'auto'] as const;
  for (const device of order) {
    try {
      const target = join(folder, `${device}.safetensors`);
      const encode = (await inProcess({ task: 'encode', ...common, pixels, target, device })) as EncodeFigures;
      const burst = (await inProcess({ task: 'burst', ...common, count: BURST, device })) as BurstFigures;
      const features = new Map(readFeatures(target));
      exact ??= [...features];
      const distances = exact.map(([name, wanted]) =>
        cosineDistance(features.get(name) ?? new Float32Array(wanted.length), wanted),
      );
      console.log(
        `${device.padEnd(8)} load and first ${encode.load_and_first_s.toFixed(2)} s   image ${encode.encode_ms.toFixed(1)} ms   ${BURST} at once ${burst.together_ms.toFixed(1)} ms each   process memory ${(encode.peak_mb / 1000).toFixed(2)} GB   cosine distance to cpu ${Math.max(...distances).toExponential(1)}`,
      );
    } catch (error) {
      console.log(`${device.padEnd(8)} not here: ${messageOf(error)}`);
    }
  }
  if (python !== undefined) {
    const script = new URL('./torch_reference.py', import.meta.url).pathname;
    const output = execFileSync(python, [script, path, pixels, String(RUNS), '--cuda'], { encoding: 'utf8' });
    const figures = JSON.parse(output.trim().split('\n').at(-1) ?? '') as EncodeFigures & { embeds: number[] };
    const mine = exact?.find(([name]) => name === 'image_embeds')?.[1] ?? new Float32Array(figures.embeds.length);
    console.log(
      `torch, transformers fp32 on the GPU: load and first ${figures.load_and_first_s.toFixed(2)} s   image ${figures.encode_ms.toFixed(1)} ms   cosine distance to cpu ${cosineDistance(Float32Array.from(figures.embeds), mine).toExponential(1)}`,
    );
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
