/** A throw-away ComfyUI tree with small models in the real file format, and a picture. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { encodePng } from '../../image/index.js';
import { f32Tensor } from '../../tensor/tensor.js';
import { presetConfig, writeRandomModel } from '../../vision/index.js';

export interface DemoTree extends AsyncDisposable {
  /** The ComfyUI root. */
  readonly root: string;
  readonly dataDirectory: string;
  readonly models: readonly string[];
  readonly picture: Uint8Array<ArrayBuffer>;
}

/** A few layers of CLIP-ViT-H and CLIP-ViT-L: their keys, input sizes and arithmetic, in a few megabytes. */
const MODELS = [
  { file: 'CLIP-ViT-H-demo.safetensors', preset: 'CLIP-ViT-H', hiddenSize: 160, heads: 2, projectionDim: 128 },
  { file: 'sd/CLIP-ViT-L-demo.safetensors', preset: 'CLIP-ViT-L', hiddenSize: 128, heads: 2, projectionDim: 96 },
] as const;
const LAYERS = 4;

export async function createDemoTree(): Promise<DemoTree> {
  const folder = await mkdtemp(join(tmpdir(), 'vision-bridge-demo-'));
  const root = join(folder, 'ComfyUI');
  const elsewhere = join(folder, 'more-models', 'encoders');
  for (const part of ['comfy', 'models/clip_vision/sd', 'models/loras', 'input', 'output'])
    await mkdir(join(root, part), { recursive: true });
  await mkdir(elsewhere, { recursive: true });
  // What makes a folder an installation; no code of ComfyUI is needed.
  for (const name of ['main.py', 'folder_paths.py']) await writeFile(join(root, name), '');
  await writeFile(
    join(root, 'extra_model_paths.yaml'),
    'more:\n  base_path: ../more-models\n  clip_vision: encoders\n',
  );
  for (const { file, preset, hiddenSize, heads, projectionDim } of MODELS) {
    const known = presetConfig(preset);
    if (known === undefined) throw new RangeError(`no preset is called ${preset}`);
    const config = {
      ...known.config,
      hiddenSize,
      heads,
      projectionDim,
      layers: LAYERS,
      intermediateSize: hiddenSize * 4,
    };
    const target = file.startsWith('sd/') ? join(elsewhere, file.slice(3)) : join(root, 'models', 'clip_vision', file);
    await writeRandomModel(target, config, { withConfig: true });
  }
  return {
    root,
    dataDirectory: join(folder, 'data'),
    models: MODELS.map(({ file }) => file.replace(/^sd\//, '')),
    picture: Uint8Array.from(await encodePng(gradient(320, 240), 0, new Map(), 1)),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  };
}

/** A coloured picture with some structure: a gradient and a disc. */
function gradient(width: number, height: number): ReturnType<typeof f32Tensor> {
  const data = new Float32Array(width * height * 3);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const isInDisc = Math.hypot(x - width * 0.6, y - height * 0.45) < height * 0.25;
      data.set([x / width, y / height, isInDisc ? 1 : 0.2], (y * width + x) * 3);
    }
  }
  return f32Tensor([1, height, width, 3], data);
}
