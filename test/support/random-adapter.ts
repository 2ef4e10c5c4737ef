/** IP-Adapters of true size with random weights. */
import { writeFile } from 'node:fs/promises';
import { base } from '../../src/adapter/families/base.js';
import type { AdapterFamily, ProjectionSizes } from '../../src/adapter/families/index.js';
import { faceidPlus } from '../../src/adapter/families/faceid-plus.js';
import { resampler } from '../../src/adapter/families/resampler.js';
import { serializeSafetensors } from '../../src/formats/index.js';
import { f32ToF16Bits } from '../../src/tensor/float16.js';
import { elementCount, type Shape, type Tensor } from '../../src/tensor/tensor.js';
import { seededRandom } from './random.js';

/** Widths of SD1.5's cross-attentions in the order of the layers. */
const SD15_BLOCKS = [320, 320, 640, 640, 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320, 320, 1280];
/** Those of SDXL and Kolors: input blocks of depth 2, 2, 10 and 10, output blocks of 10, 10, 10, 2, 2 and 2, the middle. */
const SDXL_BLOCKS: readonly number[] = [
  [640, 4],
  [1280, 50],
  [640, 6],
  [1280, 10],
].flatMap(([width = 0, count = 0]) => new Array<number>(count).fill(width));

interface RandomAdapter {
  readonly family: AdapterFamily;
  readonly sizes: ProjectionSizes;
  /** Widths of the layers; default those of SD1.5. */
  readonly blocks?: readonly number[];
  /** What the layers read, where it is another width than that of the tokens. */
  readonly layerContextWidth?: number;
}

/** `ip-adapter_sd15` and `ip-adapter-plus_sd15`, in their true sizes. */
export const TRUE_SIZES = {
  base: { family: base, sizes: { tokens: 4, contextWidth: 768, innerWidth: 768, imageWidth: 1024 } },
  plus: {
    family: resampler,
    sizes: {
      tokens: 16,
      contextWidth: 768,
      innerWidth: 768,
      imageWidth: 1280,
      resampler: { width: 768, heads: 12, depth: 4, hiddenWidth: 3072 },
    },
  },
} as const satisfies Record<string, RandomAdapter>;

/** FaceID-plus for Kolors: published with a resampler of depth 4 and feed-forward layers of 16384. */
export const KOLORS_FACEID = {
  family: faceidPlus,
  sizes: {
    tokens: 6,
    contextWidth: 4096,
    innerWidth: 4096,
    imageWidth: 1024,
    faceWidth: 512,
    hiddenWidth: 1024,
    resampler: { width: 4096, heads: 64, depth: 4, hiddenWidth: 16_384 },
  },
  blocks: SDXL_BLOCKS,
  layerContextWidth: 2048,
} as const satisfies RandomAdapter;

/** Shapes of all tensors, by name. */
export function adapterShapes({
  family,
  sizes,
  blocks = SD15_BLOCKS,
  layerContextWidth = sizes.contextWidth,
}: RandomAdapter): Map<string, Shape> {
  const shapes = new Map<string, Shape>();
  for (const [name, shape] of family.needs(sizes)) shapes.set(`image_proj.${name}`, shape);
  blocks.forEach((width, i) => {
    for (const part of ['to_k_ip', 'to_v_ip'])
      shapes.set(`ip_adapter.${2 * i + 1}.${part}.weight`, [width, layerContextWidth]);
  });
  return shapes;
}

export async function writeRandomAdapter(path: string, adapter: RandomAdapter): Promise<void> {
  const random = seededRandom(7);
  const pool = Uint16Array.from({ length: 1 << 16 }, () => f32ToF16Bits(random() - 0.5));
  const tensors: Record<string, Tensor> = {};
  const add = (name: string, shape: Shape): void => {
    const data = new Uint16Array(elementCount(shape));
    // One pool for all: a bench asks for sizes, not for values.
    for (let begin = 0; begin < data.length; begin += pool.length)
      data.set(pool.subarray(0, data.length - begin), begin);
    tensors[name] = { dtype: 'F16', shape, data };
  };
  for (const [name, shape] of adapterShapes(adapter)) add(name, shape);
  await writeFile(path, serializeSafetensors(tensors));
}
