/**
 * Text and vision encoders by content, with what a vision encoder gives to those that build on it.
 *
 * Source: ComfyUI 0.3.64, comfy/sd.py (`detect_te_model`) and comfy/clip_vision.py; telling UMT5 from T5 is ours.
 */
import type { TableFacts } from './facts.js';
import type { Keys } from './keys.js';

type Found = Pick<TableFacts, 'encoder' | 'vision'>;

interface Rule {
  readonly fits: (keys: Keys) => boolean;
  readonly encoder: string;
}

const has =
  (name: string): Rule['fits'] =>
  (keys) =>
    keys.has(name);
const side =
  (name: string, axis: number, value: number): Rule['fits'] =>
  (keys) =>
    keys.side(name, axis) === value;

const T5_GATE = 'encoder.block.23.layer.1.DenseReluDense.wi_1.weight';
const UMT5_VOCABULARY = 256_384;
const isUmt5 = (keys: Keys): boolean =>
  keys.has('encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight') ||
  keys.side('shared.weight', 0) === UMT5_VOCABULARY;

/** First that fits. */
const TEXT_ENCODERS: readonly Rule[] = [
  { fits: has('text_model.encoder.layers.30.mlp.fc1.weight'), encoder: 'clip-g' },
  { fits: has('text_model.encoder.layers.22.mlp.fc1.weight'), encoder: 'clip-h' },
  { fits: has('text_model.encoder.layers.0.mlp.fc1.weight'), encoder: 'clip-l' },
  { fits: (keys) => keys.side(T5_GATE, -1) === 4096 && isUmt5(keys), encoder: 'umt5-xxl' },
  { fits: side(T5_GATE, -1, 4096), encoder: 't5-xxl' },
  { fits: side(T5_GATE, -1, 2048), encoder: 't5-xl' },
  { fits: has('encoder.block.23.layer.1.DenseReluDense.wi.weight'), encoder: 't5-xxl-old' },
  { fits: side('encoder.block.0.layer.0.SelfAttention.k.weight', 0, 384), encoder: 'byt5-small' },
  {
    fits: (keys) => keys.has('encoder.block.0.layer.0.SelfAttention.k.weight') && isUmt5(keys),
    encoder: 'umt5-base',
  },
  { fits: has('encoder.block.0.layer.0.SelfAttention.k.weight'), encoder: 't5-base' },
  {
    fits: (keys) =>
      keys.has('model.layers.0.post_feedforward_layernorm.weight', 'model.layers.0.self_attn.q_norm.weight'),
    encoder: 'gemma-3-4b',
  },
  { fits: has('model.layers.0.post_feedforward_layernorm.weight'), encoder: 'gemma-2-2b' },
  { fits: side('model.layers.0.self_attn.k_proj.bias', 0, 256), encoder: 'qwen2.5-vl-3b' },
  { fits: side('model.layers.0.self_attn.k_proj.bias', 0, 512), encoder: 'qwen2.5-vl-7b' },
  { fits: has('model.layers.0.post_attention_layernorm.weight'), encoder: 'llama-3-8b' },
];

export function describeTextEncoder(keys: Keys): Found | undefined {
  const rule = TEXT_ENCODERS.find(({ fits }) => fits(keys));
  return rule === undefined ? undefined : { encoder: rule.encoder };
}

const POSITIONS = 'vision_model.embeddings.position_embedding.weight';
const layer = (index: number): string => `vision_model.encoder.layers.${index}.layer_norm1.weight`;
const SIGLIP_WIDTH = 1152;

const VISION_ENCODERS: readonly (Rule & { readonly vision: NonNullable<Found['vision']> })[] = [
  {
    fits: has(layer(47)),
    encoder: 'clip-vit-bigg-14',
    vision: { embedWidth: 1280, hiddenWidth: 1664, imageSize: 224 },
  },
  { fits: has(layer(30)), encoder: 'clip-vit-h-14', vision: { embedWidth: 1024, hiddenWidth: 1280, imageSize: 224 } },
  {
    fits: (keys) => keys.has(layer(22)) && keys.side(layer(0), 0) === SIGLIP_WIDTH && keys.side(POSITIONS, 0) === 729,
    encoder: 'siglip-so400m-384',
    vision: { hiddenWidth: 1152, imageSize: 384 },
  },
  {
    fits: (keys) => keys.has(layer(22)) && keys.side(layer(0), 0) === SIGLIP_WIDTH && keys.side(POSITIONS, 0) === 1024,
    encoder: 'siglip-so400m-512',
    vision: { hiddenWidth: 1152, imageSize: 512 },
  },
  {
    fits: (keys) => keys.has(layer(22)) && keys.side(POSITIONS, 0) === 577,
    encoder: 'clip-vit-l-14-336',
    vision: { embedWidth: 768, hiddenWidth: 1024, imageSize: 336 },
  },
  { fits: has(layer(22)), encoder: 'clip-vit-l-14', vision: { embedWidth: 768, hiddenWidth: 1024, imageSize: 224 } },
  {
    fits: has('encoder.layer.39.layer_scale2.lambda1'),
    encoder: 'dinov2-giant',
    vision: { embedWidth: 1536, hiddenWidth: 1536, imageSize: 518 },
  },
  {
    fits: has('encoder.layer.23.layer_scale2.lambda1'),
    encoder: 'dinov2-large',
    vision: { embedWidth: 1024, hiddenWidth: 1024, imageSize: 518 },
  },
  {
    fits: has('layer.23.attention.o_proj.bias'),
    encoder: 'dinov3-large',
    vision: { hiddenWidth: 1024, imageSize: 224 },
  },
  {
    fits: (keys) => keys.has('layer.31.attention.o_proj.weight', 'layer.0.mlp.gate_proj.weight'),
    encoder: 'dinov3-huge',
    vision: { hiddenWidth: 1280, imageSize: 224 },
  },
];

/** The same encoders in open_clip's layout, by their number of blocks. */
const OPEN_CLIP = 'visual.transformer.resblocks.';
const OPEN_CLIP_BLOCKS: Readonly<Record<number, string>> = {
  48: 'clip-vit-bigg-14',
  32: 'clip-vit-h-14',
  24: 'clip-vit-l-14',
};

export function describeVisionEncoder(keys: Keys): Found | undefined {
  if (keys.has(`${OPEN_CLIP}0.attn.in_proj_weight`)) {
    const encoder = OPEN_CLIP_BLOCKS[keys.count(OPEN_CLIP)];
    const known = VISION_ENCODERS.find((rule) => rule.encoder === encoder);
    return known === undefined ? {} : { encoder: known.encoder, vision: known.vision };
  }
  const rule = VISION_ENCODERS.find(({ fits }) => fits(keys));
  if (rule !== undefined) return { encoder: rule.encoder, vision: rule.vision };
  // Small encoders of the same layout: told by their widths, though ComfyUI would not load them.
  if (!keys.has(layer(0), POSITIONS)) return undefined;
  const hiddenWidth = keys.side(POSITIONS, 1);
  const embedWidth = keys.side('visual_projection.weight', 0);
  return {
    vision: {
      ...(hiddenWidth === undefined ? {} : { hiddenWidth }),
      ...(embedWidth === undefined ? {} : { embedWidth }),
    },
  };
}
