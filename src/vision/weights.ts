/**
 * Names of an encoder's weights, whatever layout its file has.
 *
 * open_clip files are renamed as ComfyUI renames them (at most 48 blocks), without a copy: the fused `in_proj` becomes
 * three ranges of rows of the same tensor.
 *
 * Source: ComfyUI, comfy/clip_vision.py and comfy/utils.py, key conversion of open_clip files.
 */
import type { TensorInfo } from '../formats/index.js';
import type { Shape } from '../tensor/tensor.js';

export interface WeightRange {
  readonly dtype: string;
  readonly shape: Shape;
  /** Absolute position in the file. */
  readonly offset: number;
  readonly sizeBytes: number;
  /** Base name of the file, where it is not the header's own. */
  readonly file?: string;
  /** The file has it as `[in, out]`; `shape` is as stored. */
  readonly isTransposed?: true;
}

export type Layout = 'hf' | 'open_clip';

export interface Weights {
  readonly layout: Layout;
  /** By Hugging Face name. */
  readonly ranges: ReadonlyMap<string, WeightRange>;
  /** What the encoder's keys begin with, in a checkpoint that holds more. */
  readonly prefix?: string;
}

/** Prefix of the keys in open_clip's own files. */
const OPEN_CLIP_PREFIX = 'visual.';
const OPEN_CLIP_SIGN = 'transformer.resblocks.0.attn.in_proj_weight';

/**
 * Where full checkpoints have their vision encoder: SD 2.1 unCLIP, SVD, Stable Zero123, Hunyuan3D.
 *
 * Source: ComfyUI, comfy/supported_models.py, `clip_vision_prefix`.
 */
const CHECKPOINT_PREFIXES = [
  'embedder.model.visual.',
  'conditioner.embedders.0.open_clip.model.visual.',
  'cond_stage_model.model.visual.',
  'clip_l_vision.',
  'conditioner.main_image_encoder.model.',
] as const;

const MAX_RENAMED_BLOCKS = 48;

const TOP_NAMES: Readonly<Record<string, string>> = {
  class_embedding: 'vision_model.embeddings.class_embedding',
  'conv1.weight': 'vision_model.embeddings.patch_embedding.weight',
  positional_embedding: 'vision_model.embeddings.position_embedding.weight',
  'ln_pre.weight': 'vision_model.pre_layrnorm.weight',
  'ln_pre.bias': 'vision_model.pre_layrnorm.bias',
  'ln_post.weight': 'vision_model.post_layernorm.weight',
  'ln_post.bias': 'vision_model.post_layernorm.bias',
};

const BLOCK_NAMES: Readonly<Record<string, string>> = {
  ln_1: 'layer_norm1',
  ln_2: 'layer_norm2',
  'mlp.c_fc': 'mlp.fc1',
  'mlp.c_proj': 'mlp.fc2',
  'attn.out_proj': 'self_attn.out_proj',
};

const FUSED_PARTS = ['q_proj', 'k_proj', 'v_proj'] as const;

/** The weights of a file under their Hugging Face names; those of the encoder in a checkpoint, where it is one. */
export function nameWeights(tensors: ReadonlyMap<string, TensorInfo>): Weights {
  if (tensors.has(OPEN_CLIP_PREFIX + OPEN_CLIP_SIGN)) return nameOpenClip(tensors, OPEN_CLIP_PREFIX);
  const prefix = CHECKPOINT_PREFIXES.find((candidate) =>
    [...tensors.keys()].some((name) => name.startsWith(candidate)),
  );
  if (prefix === undefined) return { layout: 'hf', ranges: tensors };
  const own = new Map([...tensors].filter(([name]) => name.startsWith(prefix)));
  if (own.has(prefix + OPEN_CLIP_SIGN)) return { ...nameOpenClip(own, prefix), prefix };
  const ranges = new Map([...own].map(([name, info]) => [name.slice(prefix.length), info]));
  return { layout: 'hf', ranges, prefix };
}

function nameOpenClip(tensors: ReadonlyMap<string, TensorInfo>, prefix: string): Weights {
  const ranges = new Map<string, WeightRange>();
  for (const info of tensors.values()) {
    for (const [name, range] of renameOpenClip(info, prefix)) ranges.set(name, range);
  }
  return { layout: 'open_clip', ranges };
}

function renameOpenClip(info: TensorInfo, prefix: string): [string, WeightRange][] {
  if (!info.name.startsWith(prefix)) return [[info.name, info]];
  const name = info.name.slice(prefix.length);
  if (name === 'proj') return [['visual_projection.weight', { ...info, isTransposed: true }]];
  const top = Object.hasOwn(TOP_NAMES, name) ? TOP_NAMES[name] : undefined;
  if (top !== undefined) return [[top, info]];
  const block = /^transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)$/.exec(name);
  if (block === null) return [[info.name, info]];
  const [, index = '', part = '', kind = ''] = block;
  if (Number(index) >= MAX_RENAMED_BLOCKS) return [[info.name, info]];
  const layer = `vision_model.encoder.layers.${index}`;
  if (part === 'attn.in_proj') return splitFused(info, layer, kind);
  const renamed = Object.hasOwn(BLOCK_NAMES, part) ? BLOCK_NAMES[part] : undefined;
  return renamed === undefined ? [[info.name, info]] : [[`${layer}.${renamed}.${kind}`, info]];
}

/** Three thirds of the rows. A number of rows that three does not divide gives shapes that no model accepts. */
function splitFused(info: TensorInfo, layer: string, kind: string): [string, WeightRange][] {
  const [rows = 0, ...rest] = info.shape;
  const sizeBytes = info.sizeBytes / 3;
  return FUSED_PARTS.map((part, i) => [
    `${layer}.self_attn.${part}.${kind}`,
    { ...info, shape: [rows / 3, ...rest], offset: info.offset + i * sizeBytes, sizeBytes },
  ]);
}
