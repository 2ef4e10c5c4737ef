/**
 * The drop-in against ComfyUI's own loader, through core nodes and an unmodified IPAdapter_plus; prints the differences.
 *
 *     npx tsx test/bench/drop-in-agreement.ts PYTHON COMFYUI_CHECKOUT [IPADAPTER_PLUS_CHECKOUT]
 *
 * The encoder is a CLIP-ViT-L of true size with random weights (0.6 GB, in the temporary folder): ComfyUI loads no smaller one.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { presetConfig, writeRandomModel } from '../../src/vision/index.js';
import { TRUE_SIZES, writeRandomAdapter } from '../support/random-adapter.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const [python, checkout, plus] = process.argv.slice(2);
if (python === undefined || checkout === undefined)
  throw new Error('usage: npx tsx test/bench/drop-in-agreement.ts PYTHON COMFYUI_CHECKOUT [IPADAPTER_PLUS]');
const preset = presetConfig('CLIP-ViT-L');
if (preset === undefined) throw new Error('no preset');

const folder = mkdtempSync(join(tmpdir(), 'vision-bridge-compare-'));
try {
  const root = join(folder, 'ComfyUI');
  for (const part of ['comfy', 'models/clip_vision', 'models/ipadapter', 'input', 'output', 'user', 'custom_nodes'])
    mkdirSync(join(root, part), { recursive: true });
  for (const name of ['main.py', 'folder_paths.py']) writeFileSync(join(root, name), '');
  const models = join(root, 'models');
  // The name that IPAdapter_plus's unified loader looks for; what is in it says that it is a CLIP-ViT-L.
  const name = 'CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors';
  await writeRandomModel(join(models, 'clip_vision', name), preset.config);
  const { hiddenSize, projectionDim } = preset.config;
  for (const [file, { family, sizes }] of [
    ['ip-adapter_sd15', { ...TRUE_SIZES.base, sizes: { ...TRUE_SIZES.base.sizes, imageWidth: projectionDim ?? 0 } }],
    ['ip-adapter-plus_sd15', { ...TRUE_SIZES.plus, sizes: { ...TRUE_SIZES.plus.sizes, imageWidth: hiddenSize } }],
  ] as const)
    await writeRandomAdapter(join(models, 'ipadapter', `${file}.safetensors`), { family, sizes });
  const serve = ['--import', import.meta.resolve('tsx'), join(ROOT, 'src/cli/main.ts'), 'serve', '--comfyui', root];
  const data = ['--data-directory', join(folder, 'data'), '--log-level', 'error'];
  const script = join(ROOT, 'test/bench/drop_in_agreement.py');
  const { status } = spawnSync(python, [script, ...(plus === undefined ? [] : [plus])], {
    stdio: 'inherit',
    env: {
      ...process.env,
      PYTHONDONTWRITEBYTECODE: '1',
      COMFYUI_CHECKOUT: checkout,
      PACK_TEST_ROOT: root,
      PACK_TEST_PACK: join(ROOT, 'comfy-nodes'),
      PACK_TEST_SERVE: JSON.stringify([process.execPath, ...serve, ...data]),
    },
  });
  process.exitCode = status ?? 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
