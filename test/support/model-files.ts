/** safetensors files with real names and shapes and no data: sparse, so that a model of gigabytes takes kilobytes. */
import { mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';

export type Shapes = Readonly<Record<string, readonly number[]>>;

/** Writes a file whose tensors are F16 and zero. */
export async function writeSparseModel(
  path: string,
  shapes: Shapes,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const header: Record<string, unknown> = Object.keys(metadata).length === 0 ? {} : { __metadata__: metadata };
  let end = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const size = shape.reduce((product, side) => product * side, 2);
    header[name] = { dtype: 'F16', shape, data_offsets: [end, end + size] };
    end += size;
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  await mkdir(dirname(path), { recursive: true });
  const file = await open(path, 'w');
  try {
    await file.write(Buffer.concat([length, json]));
    await file.truncate(8 + json.length + end);
  } finally {
    await file.close();
  }
}

/** The names by which encoders are told, at their true widths. */
function clipVision(layers: number, width: number, embeds: number): Shapes {
  const shapes: Record<string, readonly number[]> = {
    'vision_model.embeddings.class_embedding': [width],
    'vision_model.embeddings.position_embedding.weight': [257, width],
    'visual_projection.weight': [embeds, width],
  };
  for (let i = 0; i < layers; i += 1) shapes[`vision_model.encoder.layers.${i}.layer_norm1.weight`] = [width];
  return shapes;
}

export const CLIP_H = clipVision(32, 1280, 1024);
export const CLIP_G = clipVision(48, 1664, 1280);
export const CLIP_L = clipVision(24, 1024, 768);

/** IP-Adapters: the projector, and one layer that tells the width of the text context. */
export function ipAdapter(context: number, projector: 'base' | 'plus' | 'faceid', input: number): Shapes {
  const layer = { 'ip_adapter.1.to_k_ip.weight': [320, context], 'ip_adapter.1.to_v_ip.weight': [320, context] };
  switch (projector) {
    case 'base':
      return {
        'image_proj.proj.weight': [4 * context, input],
        'image_proj.proj.bias': [4 * context],
        'image_proj.norm.weight': [context],
        ...layer,
      };
    case 'plus':
      return {
        'image_proj.latents': [1, 16, context],
        'image_proj.proj_in.weight': [context, input],
        'image_proj.proj_out.weight': [context, context],
        ...layer,
      };
    case 'faceid':
      return {
        'image_proj.proj.0.weight': [1024, input],
        'image_proj.proj.2.weight': [4 * context, 1024],
        'image_proj.norm.weight': [context],
        'ip_adapter.0.to_q_lora.down.weight': [128, 320],
        ...layer,
      };
  }
}

/** A LoRA in kohya's names, of some modules of SDXL. */
export function kohyaLora(modules: number, rank: number): Shapes {
  const shapes: Record<string, readonly number[]> = {};
  for (let i = 0; i < modules; i += 1) {
    const name = `lora_unet_input_blocks_${4 + (i % 4)}_1_transformer_blocks_${Math.floor(i / 8) % 10}_attn${1 + (i % 2)}_to_${'qkv'[Math.floor(i / 2) % 3] ?? 'q'}_${i}`;
    shapes[`${name}.alpha`] = [];
    shapes[`${name}.lora_down.weight`] = [rank, 640];
    shapes[`${name}.lora_up.weight`] = [640, rank];
  }
  return shapes;
}
