/**
 * The ComfyUI pack's own tests, in Python with real torch, against real servers.
 *
 * A Python that has torch is found by itself, or named by VISION_BRIDGE_TEST_PYTHON. Where there is none, CI=true or
 * VISION_BRIDGE_TEST_VENV=1 makes a virtual environment; otherwise the tests are skipped and say so. With
 * COMFYUI_CHECKOUT they run against that ComfyUI in place of the stand-in, and a sampler of it runs with image prompts;
 * IPADAPTER_PLUS_CHECKOUT compares these with IPAdapter_plus.
 */
import { execFile, spawnSync } from 'node:child_process';
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDemoTree, type DemoTree } from '../../src/cli/demo/tree.js';
import { serializeSafetensors } from '../../src/formats/index.js';
import { preprocess } from '../../src/image/index.js';
import { f32Tensor, type F32Tensor } from '../../src/tensor/tensor.js';
import { featureTensors, presetConfig, writeRandomModel } from '../../src/vision/index.js';
import { writeFacePack } from '../support/face-networks.js';
import { startEngine } from '../support/inference.js';
import { seededRandom } from '../support/random.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const NEEDED = 'import torch, numpy, aiohttp, safetensors';
const GOLDEN = process.env['GOLDEN_VISION_DIR'] ?? join(ROOT, 'test', 'golden', 'vision');
/** Of the face vectors that faceid-sd15 takes. */
const GOLDEN_FACE_WIDTH = 64;
/** Of one file: all of its servers and, in a real ComfyUI, its samplers. */
const TIMEOUT_MS = 300_000;
const VENV = resolve(ROOT, '.test-results', 'pack-venv');

function hasTorch(python: string): boolean {
  return spawnSync(python, ['-c', NEEDED], { stdio: 'ignore' }).status === 0;
}

function makeEnvironment(): string | undefined {
  const inVenv = process.platform === 'win32' ? ['Scripts', 'python.exe'] : ['bin', 'python'];
  const python = join(VENV, ...inVenv);
  if (hasTorch(python)) return python;
  const steps: [string, string[]][] = [
    [process.platform === 'win32' ? 'python' : 'python3', ['-m', 'venv', VENV]],
    [python, ['-m', 'pip', 'install', '-qq', '--retries', '1', 'torch', 'numpy', 'aiohttp', 'safetensors', 'pytest']],
  ];
  for (const [command, args] of steps) {
    const { status } = spawnSync(command, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    if (status !== 0) return undefined;
  }
  return hasTorch(python) ? python : undefined;
}

function findPython(): string | undefined {
  const named = process.env['VISION_BRIDGE_TEST_PYTHON'] ?? '';
  const found = (named === '' ? ['python3', 'python'] : [named]).find(hasTorch);
  const mayMake = process.env['CI'] === 'true' || process.env['VISION_BRIDGE_TEST_VENV'] === '1';
  return found ?? (mayMake ? makeEnvironment() : undefined);
}

const python = findPython();
if (python === undefined) {
  console.log(
    "The pack's Python tests are skipped: no Python here has torch. Name one with VISION_BRIDGE_TEST_PYTHON, or let the tests make a virtual environment with VISION_BRIDGE_TEST_VENV=1.",
  );
}

/** pytest, or where it is not installed Python's own runner: the files are for both. */
const runner =
  python !== undefined && spawnSync(python, ['-c', 'import pytest'], { stdio: 'ignore' }).status === 0
    ? ['-m', 'pytest', '-v', '-p', 'no:cacheprovider']
    : [];

let tree: DemoTree;

/** What the engine gives, for the tests to compare with. */
async function writeExpected(): Promise<void> {
  const models = join(tree.root, 'models', 'clip_vision');
  const siglip = presetConfig('SigLIP so400m 384');
  if (siglip === undefined) throw new Error('no preset');
  const config = { ...siglip.config, hiddenSize: 48, heads: 2, layers: 3, intermediateSize: 96 };
  const siglipPath = join(models, 'siglip-tiny.safetensors');
  await writeRandomModel(siglipPath, config, { withConfig: true, modelType: siglip.modelType });
  await using started = startEngine();
  const { engine } = started;
  const random = seededRandom(5);
  const image = f32Tensor(
    [2, 150, 200, 3],
    Float32Array.from({ length: 2 * 150 * 200 * 3 }, (_none, i) => (Math.sin(i / 500) + 1) * 0.45 + random() * 0.02),
  );
  const tensors: Record<string, F32Tensor> = { image };
  for (const [label, path] of [
    ['clip', join(models, 'CLIP-ViT-H-demo.safetensors')],
    ['siglip', siglipPath],
  ] as const) {
    const model = await engine.open(path);
    const { imageSize: size, imageMean: mean, imageStd: std } = model.config;
    const pixelValues = preprocess(image, { size, crop: 'center', mean, std });
    tensors[`${label}.pixel_values`] = pixelValues;
    const add = (prefix: string, output: Parameters<typeof featureTensors>[0]): void => {
      for (const [name, tensor] of Object.entries(featureTensors(output))) tensors[`${prefix}.${name}`] = tensor;
    };
    add(label, await engine.encode(model, { pixelValues }, { outputs: model.outputs }));
    for (const crop of ['center', 'none'] as const)
      add(`${label}.${crop}`, await engine.encode(model, image, { crop }));
  }
  await writeFile(join(tree.root, 'expected.safetensors'), serializeSafetensors(tensors));
}

/** Adapters with the encoder and the face networks that they want, where people have them. */
async function writeAdapters(): Promise<void> {
  const models = join(tree.root, 'models');
  await mkdir(join(models, 'ipadapter', 'faces'), { recursive: true });
  for (const [from, to] of [
    ['models/clip-h-tiny.safetensors', 'clip_vision/h-tiny.safetensors'],
    ['ipadapter/models/base-sd15.safetensors', 'ipadapter/base.safetensors'],
    ['ipadapter/models/faceid-sd15.safetensors', 'ipadapter/faces/faceid.safetensors'],
  ] as const)
    await copyFile(join(GOLDEN, from), join(models, to));
  await writeFacePack(join(models, 'insightface', 'models', 'buffalo_l'), GOLDEN_FACE_WIDTH);
}

describe.skipIf(python === undefined)("the pack's Python tests", () => {
  beforeAll(async () => {
    tree = await createDemoTree();
    await mkdir(join(tree.root, 'user'), { recursive: true });
    await writeExpected();
    await writeAdapters();
  });
  afterAll(() => tree[Symbol.asyncDispose]());

  const passes = async (file: string): Promise<void> => {
    const serve = [
      '--import',
      import.meta.resolve('tsx'),
      join(ROOT, 'src/cli/main.ts'),
      'serve',
      '--comfyui',
      tree.root,
    ];
    const args = [...runner, join(ROOT, 'test/comfy-nodes', file), ...(runner.length === 0 ? ['-v'] : [])];
    const env = {
      ...process.env,
      PYTHONDONTWRITEBYTECODE: '1',
      PACK_TEST_ROOT: tree.root,
      PACK_TEST_GOLDEN: GOLDEN,
      PACK_TEST_PACK: join(ROOT, 'comfy-nodes'),
      PACK_TEST_SERVE: JSON.stringify([process.execPath, ...serve, '--data-directory', tree.dataDirectory]),
    };
    try {
      await promisify(execFile)(python ?? '', args, { cwd: ROOT, maxBuffer: 2 ** 26, env });
    } catch (error) {
      // pytest reports on stdout, unittest on stderr.
      const isReport = error instanceof Error && 'stdout' in error && 'stderr' in error;
      expect.fail(isReport ? `${String(error.stdout)}\n${String(error.stderr)}` : String(error));
    }
  };

  it.each(['test_client.py', 'test_drop_in.py', 'test_nodes.py', 'test_ipadapter.py', 'test_routes.py'])(
    '%s passes',
    passes,
    TIMEOUT_MS,
  );

  it.skipIf(process.env['COMFYUI_CHECKOUT'] === undefined)(
    '[comfyui] test_sampling.py passes',
    () => passes('test_sampling.py'),
    TIMEOUT_MS,
  );
});
