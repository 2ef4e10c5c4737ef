/** ImageBlend: two pictures mixed. Source: ComfyUI, comfy_extras/nodes_post_processing.py (formulas restated). */
import { PythonError, pythonStr, type NodeDefinition } from '../graph/index.js';
import { upscale } from '../image/index.js';
import type { JsonValue } from '../protocol/json.js';
import type { F32Tensor } from '../tensor/tensor.js';
import { imageSize, tensorOf } from './image-shapes.js';
import { imageInput, numberInput } from './values.js';

/** Every step rounds to fp32, as each of PyTorch's operations does. */
const f = Math.fround;

/** What the second picture makes of the first, before the two are mixed. */
const BLENDS = {
  normal: (_a: number, b: number): number => b,
  multiply: (a: number, b: number): number => f(a * b),
  screen: (a: number, b: number): number => f(1 - f(f(1 - a) * f(1 - b))),
  overlay: (a: number, b: number): number => (a <= 0.5 ? f(f(2 * a) * b) : f(1 - f(f(2 * f(1 - a)) * f(1 - b)))),
  soft_light: (a: number, b: number): number =>
    b <= 0.5 ? f(a - f(f(f(1 - f(2 * b)) * a) * f(1 - a))) : f(a + f(f(f(2 * b) - 1) * f(softLight(a) - a))),
  difference: (a: number, b: number): number => f(a - b),
} as const;
const MODES = Object.keys(BLENDS) as (keyof typeof BLENDS)[];

/** Choices of newer nodes are not checked before they run. */
function blendOf(mode: unknown): (a: number, b: number) => number {
  const found = MODES.find((name) => name === mode);
  if (found === undefined)
    throw new PythonError('ValueError', `Unsupported blend mode: ${pythonStr(mode as JsonValue)}`);
  return BLENDS[found];
}

function softLight(x: number): number {
  return x <= 0.25 ? f(f(f(f(f(16 * x) - 12) * x) + 4) * x) : f(Math.sqrt(x));
}

export function createImageBlend(): NodeDefinition {
  return {
    classType: 'ImageBlend',
    api: 'v3',
    category: 'image/postprocessing',
    pythonModule: 'comfy_extras.nodes_post_processing',
    inputs: [
      { name: 'image1', type: 'IMAGE' },
      { name: 'image2', type: 'IMAGE' },
      { name: 'blend_factor', type: 'FLOAT', options: { default: 0.5, min: 0, max: 1, step: 0.01 } },
      { name: 'blend_mode', type: 'COMBO', choices: () => MODES },
    ],
    outputs: [{ type: 'IMAGE' }],
    async execute(inputs, { signal }) {
      const first = imageInput(inputs, 'image1');
      const second = await fitted(imageInput(inputs, 'image2'), first, signal);
      const blend = blendOf(inputs['blend_mode']);
      const factor = numberInput(inputs, 'blend_factor');
      const [keep, take] = [f(1 - factor), f(factor)];
      const a = first.data;
      const b = second.data;
      const shape = a.length >= b.length ? first.shape : second.shape;
      const mixed = await tensorOf(
        shape,
        (i) => {
          const value = a[i % a.length] ?? 0;
          return Math.min(1, Math.max(0, f(f(value * keep) + f(blend(value, b[i % b.length] ?? 0) * take))));
        },
        signal,
      );
      return { outputs: [mixed] };
    },
  };
}

/** The second picture without alpha, where the first has none, and in its size; a single one serves a whole batch. */
async function fitted(image: F32Tensor, first: F32Tensor, signal: AbortSignal): Promise<F32Tensor> {
  const want = imageSize(first);
  let got = imageSize(image);
  let cut = image;
  if (want.channels < got.channels) {
    const { channels } = got;
    cut = await tensorOf(
      [got.batch, got.height, got.width, want.channels],
      (i) => image.data[Math.floor(i / want.channels) * channels + (i % want.channels)] ?? 0,
      signal,
    );
    got = imageSize(cut);
  }
  if (want.channels !== got.channels || (want.batch !== got.batch && want.batch !== 1 && got.batch !== 1)) {
    throw new PythonError(
      'RuntimeError',
      `Pictures of ${want.batch}×${want.channels} and ${got.batch}×${got.channels} (batch × channels) cannot be blended.`,
    );
  }
  if (want.batch === got.batch && want.width === got.width && want.height === got.height) return cut;
  return upscale(cut, { width: want.width, height: want.height, method: 'bicubic', crop: 'center', signal });
}
