/**
 * What the drop-in loader of the pack costs beside the model: transfer both ways, Python, HTTP, the inference process.
 *
 *     npx tsx test/bench/drop-in.ts PYTHON [COMFYUI_CHECKOUT]
 *
 * One 512×512 picture at a time through `encode_image`, the model warm, a new picture each time. The models are two layers
 * of CLIP-ViT-H with its widths, so that answers have the size of the real ones, and a tiny one. PYTHON has torch. Beside it
 * goes a plain exchange of the same bytes, which no overhead can be below.
 */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { presetConfig, writeRandomModel } from '../../src/vision/index.js';
import { writeTinyModel } from '../support/tiny-model.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const RUNS = 40;
const [python, checkout] = process.argv.slice(2);
if (python === undefined) throw new Error('usage: npx tsx test/bench/drop-in.ts PYTHON [COMFYUI_CHECKOUT]');

interface Run {
  readonly model: string;
  readonly total: number;
  readonly prepare: number;
  readonly run: number;
  readonly answer_bytes: number;
  /** The same bytes to a server that only answers. */
  readonly exchange: number;
}

const percentile = (values: readonly number[], share: number): number =>
  [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) * share)] ?? NaN;

/** Reads what it is sent, and answers with as many bytes as are asked for. */
const answers = Buffer.alloc(2 ** 22);
const plain = createServer((request, response) => {
  const bytes = Number(new URL(request.url ?? '', 'http://localhost').searchParams.get('bytes'));
  request.resume().on('end', () => response.end(answers.subarray(0, bytes)));
});
plain.listen(0, '127.0.0.1');
await once(plain, 'listening');

const folder = mkdtempSync(join(tmpdir(), 'vision-bridge-bench-'));
try {
  const root = join(folder, 'ComfyUI');
  for (const part of ['comfy', 'models/clip_vision', 'input', 'output', 'user'])
    mkdirSync(join(root, part), { recursive: true });
  for (const name of ['main.py', 'folder_paths.py']) writeFileSync(join(root, name), '');
  const preset = presetConfig('CLIP-ViT-H');
  if (preset === undefined) throw new Error('no preset');
  const models = join(root, 'models', 'clip_vision');
  const config = { ...preset.config, layers: 2 };
  await writeRandomModel(join(models, 'two-layers-of-H.safetensors'), config, { withConfig: true });
  await writeTinyModel(join(models, 'tiny.safetensors'));
  const serve = ['--import', import.meta.resolve('tsx'), join(ROOT, 'src/cli/main.ts'), 'serve'];
  const flags = ['--comfyui', root, '--data-directory', join(folder, 'data'), '--log-level', 'error'];
  const { stdout } = await promisify(execFile)(
    python,
    [join(ROOT, 'test/bench/drop_in.py'), String(RUNS), 'two-layers-of-H.safetensors', 'tiny.safetensors'],
    {
      env: {
        ...process.env,
        PLAIN_PORT: String((plain.address() as AddressInfo).port),
        PYTHONDONTWRITEBYTECODE: '1',
        PACK_TEST_ROOT: root,
        PACK_TEST_PACK: join(ROOT, 'comfy-nodes'),
        PACK_TEST_SERVE: JSON.stringify([process.execPath, ...serve, ...flags]),
        ...(checkout === undefined ? {} : { COMFYUI_CHECKOUT: checkout }),
      },
    },
  );
  const runs = stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Run);
  for (const model of new Set(runs.map((run) => run.model))) {
    const own = runs.filter((run) => run.model === model);
    const overhead = own.map(({ total, prepare, run }) => total - prepare - run);
    const show = (values: readonly number[]): string =>
      `p50 ${percentile(values, 0.5).toFixed(1)} ms, p95 ${percentile(values, 0.95).toFixed(1)} ms`;
    console.log(`${model}, answers of ${((own[0]?.answer_bytes ?? 0) / 1e6).toFixed(2)} MB, ${own.length} pictures`);
    console.log(`  overhead     ${show(overhead)}`);
    console.log(`  the same bytes to a server that only answers: ${show(own.map(({ exchange }) => exchange))}`);
    console.log(`  all together ${show(own.map(({ total }) => total))}`);
    console.log(`  preparation  ${show(own.map(({ prepare }) => prepare))}`);
    console.log(`  the model    ${show(own.map(({ run }) => run))}`);
  }
} finally {
  plain.close();
  rmSync(folder, { recursive: true, force: true });
}
