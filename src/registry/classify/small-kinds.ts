/** VAEs, embeddings, upscalers and other kinds that a few names tell. Source: ComfyUI, comfy/sd.py; spandrel's layouts. */
import type { TableFacts } from './facts.js';
import type { Keys } from './keys.js';

type VaeFacts = Pick<TableFacts, 'architecture' | 'baseModel'>;

interface VaeRule {
  readonly fits: (keys: Keys) => boolean;
  readonly facts: VaeFacts;
}

/** First that fits. Layouts that several base models share name none. */
const VAES: readonly VaeRule[] = [
  {
    fits: (keys) => keys.hasBelow('decoder.upsamples.0.upsamples.'),
    facts: { architecture: 'wan-2.2-vae', baseModel: 'wan22-5b' },
  },
  {
    fits: (keys) => keys.has('decoder.middle.0.residual.0.gamma'),
    facts: { architecture: 'wan-2.1-vae', baseModel: 'wan21' },
  },
  {
    fits: (keys) =>
      keys.hasAny(
        'decoder.up_blocks.0.res_blocks.0.conv1.conv.weight',
        'decoder.up_blocks.0.res_blocks.0.conv1.conv.bias',
      ),
    facts: { architecture: 'ltxv-vae', baseModel: 'ltxv' },
  },
  {
    fits: (keys) => keys.has('decoder.conv_in.conv.weight'),
    facts: { architecture: 'hunyuan-video-vae', baseModel: 'hunyuan-video' },
  },
  {
    fits: (keys) => keys.hasAny('blocks.2.blocks.3.stack.5.weight', 'decoder.blocks.2.blocks.3.stack.5.weight'),
    facts: { architecture: 'mochi-vae', baseModel: 'mochi' },
  },
  {
    fits: (keys) => keys.hasBelow('vquantizer.'),
    facts: { architecture: 'stable-cascade-a', baseModel: 'stable-cascade-b' },
  },
  {
    fits: (keys) => keys.has('decoder.layers.1.layers.0.beta'),
    facts: { architecture: 'stable-audio-vae', baseModel: 'stable-audio' },
  },
  {
    fits: (keys) => keys.side('decoder.conv_in.weight', 1) === 16,
    facts: { architecture: 'kl-16' },
  },
  {
    fits: (keys) => keys.side('decoder.conv_in.weight', 1) === 4,
    facts: { architecture: 'kl-4' },
  },
  { fits: (keys) => keys.has('decoder.conv_in.weight', 'encoder.conv_in.weight'), facts: { architecture: 'kl' } },
];

export function describeVae(keys: Keys): VaeFacts | undefined {
  return VAES.find(({ fits }) => fits(keys))?.facts;
}

/** A small decoder for previews; undefined for anything else. */
export function isPreviewVae(keys: Keys): boolean {
  if (keys.hasBelow('taesd_decoder.') || keys.hasBelow('taesd_encoder.')) return true;
  // The decoder or encoder alone, as its authors publish them: a convolution and residual blocks, nothing else.
  return keys.has('1.weight', '3.conv.0.weight', '3.conv.2.weight') && (keys.side('1.weight', 1) ?? 99) <= 16;
}

const EMBEDDING_BASES: Readonly<Record<number, string>> = { 768: 'sd15', 1024: 'sd21', 1280: 'sdxl' };
const ENCODER_NAMES = ['clip_g', 'clip_l', 't5xxl'];
/** More vectors than any prompt has room for: then it is no embedding. */
const MAX_VECTORS = 512;

/** A textual inversion; undefined for anything else. */
export function describeEmbedding(keys: Keys): Pick<TableFacts, 'embedding' | 'baseModel'> | undefined {
  const { table } = keys;
  const named = ENCODER_NAMES.filter((name) => keys.has(name) && keys.dimensions(name) === 2);
  if (named.length > 0 && named.length === table.count) {
    const dims = Object.fromEntries(named.map((name) => [name, keys.side(name, 1) ?? 0]));
    const vectors = Math.max(...named.map((name) => keys.side(name, 0) ?? 0));
    const baseModel = named.includes('t5xxl') ? undefined : named.includes('clip_g') ? 'sdxl' : 'sd15';
    return { embedding: { vectors, dims }, ...(baseModel === undefined ? {} : { baseModel }) };
  }
  const found = keys.find(
    (name) =>
      name === 'emb_params' || /^string_to_param(?:$|\.)/.test(name) || /^<[^<>]+>$/.test(name) || table.count === 1,
  );
  if (found === undefined || table.count > 8) return undefined;
  const rank = table.rank(found.index);
  const width = table.side(found.index, -1);
  const vectors = rank === 1 ? 1 : table.side(found.index, 0);
  if (rank < 1 || rank > 2 || width === undefined || vectors === undefined || vectors > MAX_VECTORS) return undefined;
  const baseModel = EMBEDDING_BASES[width];
  const isNamed = found.name === 'emb_params' || /^(?:string_to_param|<)/.test(found.name);
  if (baseModel === undefined && !isNamed) return undefined;
  return { embedding: { vectors, dims: { default: width } }, ...(baseModel === undefined ? {} : { baseModel }) };
}

/** An upscaler: its architecture and scale; undefined for anything else. */
export function describeUpscaler(bare: Keys): Pick<TableFacts, 'architecture' | 'scale'> | undefined {
  const wrapped = ['params_ema.', 'params.'].find((prefix) => bare.hasBelow(prefix));
  const keys = wrapped === undefined ? bare : bare.below(wrapped);
  if (keys.find((name) => /^model\.1\.sub\.\d+\.RDB\d\.conv1\.0\.weight$/.test(name)) !== undefined) {
    return { architecture: 'esrgan-old', scale: scaleOf(convolutions(keys) - 2, keys.side('model.0.weight', 1)) };
  }
  if (
    keys.has('body.0.rdb1.conv1.weight') ||
    keys.find((name) => /^body\.\d+\.rdb1\.conv1\.weight$/.test(name)) !== undefined
  ) {
    const ups = ['conv_up1', 'conv_up2', 'conv_up3', 'upconv1', 'upconv2'].filter((name) =>
      keys.has(`${name}.weight`),
    ).length;
    return { architecture: 'esrgan-new', scale: scaleOf(ups, keys.side('conv_first.weight', 1)) };
  }
  if (keys.find((name) => name.includes('.conv_block.cab.')) !== undefined) return { architecture: 'hat' };
  if (keys.find((name) => /^layers\.\d+\.blocks\.\d+\.attn\.(?:attns\.|dwconv)/.test(name)) !== undefined)
    return { architecture: 'dat' };
  if (keys.has('layers.0.residual_group.blocks.0.attn.relative_position_bias_table')) return { architecture: 'swinir' };
  return describeCompact(keys);
}

/** Plain convolutions of the trunk, numbered: two close the network, the others double the size. */
function convolutions(keys: Keys): number {
  let count = 0;
  for (let i = 2; i < 16; i += 1) if (keys.has(`model.${i}.weight`)) count += 1;
  return count;
}

/** Doublings, less what the input was folded into channels before: 12 channels are 2 x 2 pixels, 48 are 4 x 4. */
function scaleOf(doublings: number, channels: number | undefined): number {
  const folded = channels === 12 ? 2 : channels === 48 ? 4 : 1;
  return 2 ** Math.max(0, doublings) / folded;
}

/** SRVGG: convolutions and slopes in turn, the last one giving 3 x scale x scale channels. */
function describeCompact(keys: Keys): Pick<TableFacts, 'architecture' | 'scale'> | undefined {
  const last = keys.count('body.') - 1;
  if (last < 2 || keys.dimensions('body.0.weight') !== 4 || keys.dimensions('body.1.weight') !== 1) return undefined;
  const scale = Math.sqrt((keys.side(`body.${last}.weight`, 0) ?? 0) / 3);
  return Number.isInteger(scale) && scale >= 1 ? { architecture: 'compact', scale } : undefined;
}
