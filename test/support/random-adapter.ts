/** IP-Adapters of true size with random weights. */
import { writeFile } from 'node:fs/promises';
import { base } from '../../src/adapter/families/base.js';
import type { AdapterFamily, ProjectionSizes } from '../../src/adapter/families/index.js';
import { resampler } from '../../src/adapter/families/resampler.js';
import { serializeSafetensors } from '../../src/formats/index.js';
import { f32ToF16Bits } from '../../src/tensor/float16.js';
import { elementCount, type Shape, type Tensor } from '../../src/tensor/tensor.js';
import { seededRandom } from './random.js';

/** Widths of SD1.5's cross-attentions in the order of the layers. */
const SD15_BLOCKS = [320, 320, 640, 640, 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320, 320, 1280];

interface RandomAdapter {
  readonly family: AdapterFamily;
  readonly sizes: ProjectionSizes;
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

export async function writeRandomAdapter(path: string, { family, sizes }: RandomAdapter): Promise<void> {
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
  for (const [name, shape] of family.needs(sizes)) add(`image_proj.${name}`, shape);
  SD15_BLOCKS.forEach((width, i) => {
    for (const part of ['to_k_ip', 'to_v_ip'])
      add(`ip_adapter.${2 * i + 1}.${part}.weight`, [width, sizes.contextWidth]);
  });
  await writeFile(path, serializeSafetensors(tensors));
}
