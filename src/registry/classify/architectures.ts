/**
 * Which base model the weights of a diffusion model belong to, from names and shapes alone.
 *
 * The order of the tests is ComfyUI's: the first sign that fits decides.
 *
 * Source: ComfyUI 0.3.64, comfy/model_detection.py, `detect_unet_config` and `unet_prefix_from_state_dict`.
 */
import type { TensorTable } from '../../formats/index.js';
import type { TableFacts } from './facts.js';
import { Keys } from './keys.js';

type Found = Pick<TableFacts, 'baseModel' | 'variant' | 'prediction'>;

interface Architecture {
  readonly fits: (keys: Keys) => boolean;
  readonly describe: (keys: Keys) => Found;
}

const PREFIXES = ['model.diffusion_model.', 'model.model.', 'net.'];
/** ComfyUI believes in a prefix that more keys than this have. */
const MIN_PREFIXED = 5;

/** The part of a table that is a diffusion model, and what precedes its names. */
export function diffusionKeys(table: TensorTable): Keys {
  const counts = PREFIXES.map((prefix) => {
    let count = 0;
    for (let i = 0; i < table.count && count <= MIN_PREFIXED; i += 1) {
      if (table.name(i).startsWith(prefix)) count += 1;
    }
    return count;
  });
  const at = counts.findIndex((count) => count > MIN_PREFIXED);
  return new Keys(table, PREFIXES[at] ?? '');
}

const plain =
  (baseModel: string): Architecture['describe'] =>
  () => ({ baseModel });
const sign = (name: string, describe: Architecture['describe']): Architecture => ({
  fits: (keys) => keys.has(name),
  describe,
});

const ARCHITECTURES: readonly Architecture[] = [
  sign('joint_blocks.0.context_block.attn.qkv.weight', describeSd3),
  sign('clf.1.weight', (keys) => ({
    baseModel: keys.has('clip_txt_mapper.weight') ? 'stable-cascade-c' : 'stable-cascade-b',
  })),
  sign('transformer.rotary_pos_emb.inv_freq', plain('stable-audio')),
  sign('double_layers.0.attn.w1q.weight', plain('auraflow')),
  sign('mlp_t5.0.weight', plain('hunyuan-dit')),
  sign('txt_in.individual_token_refiner.blocks.0.norm1.weight', describeHunyuan),
  {
    fits: (keys) =>
      keys.has('double_blocks.0.img_attn.norm.key_norm.scale') &&
      keys.hasAny('img_in.weight', 'distilled_guidance_layer.norms.0.scale'),
    describe: describeFlux,
  },
  sign('t5_yproj.weight', plain('mochi')),
  {
    fits: (keys) => keys.has('adaln_single.emb.timestep_embedder.linear_1.bias'),
    describe: (keys) => ({
      baseModel: !keys.has('pos_embed.proj.bias')
        ? 'ltxv'
        : keys.hasBelow('adaln_single.emb.resolution_embedder.')
          ? 'pixart-alpha'
          : 'pixart-sigma',
    }),
  },
  sign('genre_embedder.weight', plain('ace-step')),
  sign('t_block.1.weight', (keys) => ({
    baseModel: keys.has('ar_embedder.mlp.0.weight') ? 'pixart-alpha' : 'pixart-sigma',
  })),
  sign('blocks.block0.blocks.0.block.attn.to_q.0.weight', plain('cosmos')),
  sign('cap_embedder.1.weight', (keys) => ({
    baseModel: keys.side('cap_embedder.1.weight', 0) === 3840 ? 'z-image' : 'lumina2',
  })),
  sign('head.modulation', describeWan),
  sign('latent_in.weight', plain('hunyuan3d-2')),
  sign('t_embedder.mlp.2.weight', plain('hunyuan3d-2.1')),
  sign('caption_projection.0.linear.weight', plain('hidream')),
  sign('blocks.0.mlp.layer1.weight', plain('cosmos-predict2')),
  sign('time_caption_embed.timestep_embedder.linear_1.bias', plain('omnigen2')),
  sign('txt_norm.weight', plain('qwen-image')),
  sign('input_blocks.0.0.weight', describeUnet),
  { fits: (keys) => keys.has('conv_in.weight') && keys.hasBelow('down_blocks.'), describe: describeDiffusersUnet },
];

/** What a diffusion model is; undefined where no sign fits. */
export function describeDiffusion(keys: Keys): Found | undefined {
  return ARCHITECTURES.find(({ fits }) => fits(keys))?.describe(keys);
}

function describeSd3(keys: Keys): Found {
  const depth = (keys.side('x_embedder.proj.weight', 0) ?? 0) / 64;
  const isNewer = keys.has('joint_blocks.0.context_block.attn.ln_q.weight');
  if (keys.hasBelow('joint_blocks.0.x_block.attn2.')) return { baseModel: 'sd35-medium' };
  if (depth === 38) return { baseModel: isNewer ? 'sd35-large' : 'sd3-large' };
  return depth === 24 ? { baseModel: isNewer ? 'sd35-medium' : 'sd3-medium' } : { baseModel: 'sd3' };
}

function describeHunyuan(keys: Keys): Found {
  if (keys.dimensions('img_in.proj.weight') === 4) return { baseModel: 'hunyuan-image-2.1' };
  const channels = keys.side('img_in.proj.weight', 1);
  if (channels === 33) return { baseModel: 'hunyuan-video', variant: 'i2v' };
  return channels === 32 ? { baseModel: 'hunyuan-video', variant: 'skyreels-i2v' } : { baseModel: 'hunyuan-video' };
}

function describeFlux(keys: Keys): Found {
  if (keys.hasAny('distilled_guidance_layer.0.norms.0.scale', 'distilled_guidance_layer.norms.0.scale')) {
    return keys.has('nerf_blocks.0.norm.scale')
      ? { baseModel: 'chroma', variant: 'radiance' }
      : { baseModel: 'chroma' };
  }
  if (!keys.has('guidance_in.in_layer.weight')) return { baseModel: 'flux-schnell' };
  const columns = keys.side('img_in.weight', 1);
  if (columns === 384) return { baseModel: 'flux-fill', variant: 'inpaint' };
  return { baseModel: 'flux-dev', ...(columns === 128 ? { variant: 'control' } : {}) };
}

function describeWan(keys: Keys): Found {
  const width = keys.side('head.modulation', -1);
  const channels = keys.side('patch_embedding.weight', 1);
  const output = (keys.side('head.head.weight', 0) ?? 0) / 4;
  const hasImage = keys.has('img_emb.proj.0.bias');
  const size = width === 1536 ? '1.3b' : width === 5120 ? '14b' : undefined;
  if (keys.has('vace_patch_embedding.weight')) return { baseModel: 'wan21-vace' };
  if (keys.has('control_adapter.conv.weight'))
    return { baseModel: hasImage ? 'wan21' : 'wan22-14b', variant: 'camera' };
  if (keys.has('casual_audio_encoder.encoder.final_linear.weight')) return { baseModel: 'wan22-14b', variant: 's2v' };
  if (keys.has('audio_proj.audio_proj_glob_1.layer.bias')) return { baseModel: 'wan21', variant: 'humo' };
  if (keys.has('face_adapter.fuser_blocks.0.k_norm.weight')) return { baseModel: 'wan22-14b', variant: 'animate' };
  if (output === 48) return { baseModel: 'wan22-5b' };
  if (size === undefined) return { baseModel: 'wan21' };
  if (hasImage) return { baseModel: `wan21-i2v-${size}`, ...(keys.has('img_emb.emb_pos') ? { variant: 'flf2v' } : {}) };
  return channels === 36 ? { baseModel: `wan22-i2v-${size}` } : { baseModel: `wan21-t2v-${size}` };
}

/** Transformers in the deepest block of the U-Net's way down: 10 in SDXL, fewer in its small relatives. */
const SDXL_DEPTHS: Readonly<Record<number, string>> = { 4: 'ssd-1b', 2: 'vega', 5: 'koala-700m', 6: 'koala-1b' };

function describeUnet(keys: Keys): Found {
  const context = keys.find((name) => name.endsWith('.transformer_blocks.0.attn2.to_k.weight'));
  const width = context === undefined ? undefined : keys.table.side(context.index, 1);
  const channels = keys.side('input_blocks.0.0.weight', 1);
  const label = keys.side('label_emb.0.0.weight', 1);
  if (label === 768 && keys.find((name) => name.includes('.time_stack.')) !== undefined) return { baseModel: 'svd' };
  const variant = channels === 9 ? { variant: 'inpaint' } : channels === 8 ? { variant: 'edit' } : {};
  const marks = keys.hasAny('v_pred')
    ? { prediction: 'v' }
    : keys.hasAny('edm_mean', 'edm_vpred.sigma_max')
      ? { prediction: 'edm' }
      : {};
  if (width === 2048) {
    const depth = Math.max(...[4, 5, 7, 8].map((block) => keys.count(`input_blocks.${block}.1.transformer_blocks.`)));
    return { baseModel: SDXL_DEPTHS[depth] ?? 'sdxl', ...variant, ...marks };
  }
  if (width === 1280) return { baseModel: 'sdxl-refiner', ...variant, ...marks };
  if (width === 1024)
    return label === undefined ? { baseModel: 'sd21', ...variant } : { baseModel: 'sd21', variant: 'unclip' };
  return width === 768 ? { baseModel: 'sd15', ...variant } : {};
}

function describeDiffusersUnet(keys: Keys): Found {
  const context = keys.find((name) => name.endsWith('.transformer_blocks.0.attn2.to_k.weight'));
  const width = context === undefined ? undefined : keys.table.side(context.index, 1);
  const channels = keys.side('conv_in.weight', 1);
  const variant = channels === 9 ? { variant: 'inpaint' } : channels === 8 ? { variant: 'edit' } : {};
  if (width === 2048) {
    const depth = Math.max(
      ...[1, 2].map((block) => keys.count(`down_blocks.${block}.attentions.0.transformer_blocks.`)),
    );
    return { baseModel: SDXL_DEPTHS[depth] ?? 'sdxl', ...variant };
  }
  if (width === 1280) return { baseModel: 'sdxl-refiner', ...variant };
  if (width === 1024) return { baseModel: 'sd21', ...variant };
  return width === 768 ? { baseModel: 'sd15', ...variant } : {};
}
