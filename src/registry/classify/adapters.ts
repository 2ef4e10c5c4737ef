/**
 * IP-Adapters, style models and control networks: what they sit on, and what they want of a vision encoder.
 *
 * Source: IPAdapter_plus, as its rules are restated in the reference of this project; ComfyUI, comfy/controlnet.py.
 */
import type { AdapterFacts, TableFacts } from './facts.js';
import type { Keys } from './keys.js';

type Found = Pick<TableFacts, 'baseModel' | 'variant' | 'adapter'>;

/** Width of the text context that an adapter's keys and values are made for. */
const CONTEXT_BASES: Readonly<Record<number, string>> = { 768: 'sd15', 1024: 'sd21', 2048: 'sdxl' };
/** Kolors: an SDXL U-Net whose adapters see the 336-pixel encoder's hidden states of 1024. */
const KOLORS_INPUT_WIDTH = 1024;
/** Its FaceID-plus resamples as wide as its text encoder's states; those of other base models are as wide as their context. */
const KOLORS_FACEID_WIDTH = 4096;

/** An IP-Adapter, its names beginning with `image_proj.` and `ip_adapter.`. */
export function describeIpAdapter(keys: Keys): Found {
  const projection = keys.below('image_proj.');
  const layers = keys.hasBelow('ip_adapter.') ? keys.below('ip_adapter.') : keys.below('adapter_modules.');
  const context = layers.side('1.to_k_ip.weight', 1) ?? contextOf(layers);
  const adapter = projectorOf(projection, layers);
  const isKolors =
    adapter.projector === 'faceid-plus'
      ? projection.side('perceiver_resampler.layers.0.0.to_out.weight', 0) === KOLORS_FACEID_WIDTH
      : context === 2048 && adapter.projector === 'plus' && adapter.inputWidth === KOLORS_INPUT_WIDTH;
  const baseModel = isKolors ? 'kolors' : context === undefined ? undefined : CONTEXT_BASES[context];
  return { adapter, variant: adapter.projector, ...(baseModel === undefined ? {} : { baseModel }) };
}

function contextOf(layers: Keys): number | undefined {
  const found = layers.find((name) => name.endsWith('.to_k_ip.weight'));
  return found === undefined ? undefined : layers.table.side(found.index, 1);
}

function projectorOf(projection: Keys, layers: Keys): AdapterFacts {
  const width = (name: string): Pick<AdapterFacts, 'inputWidth'> => {
    const inputWidth = projection.side(name, 1);
    return inputWidth === undefined ? {} : { inputWidth };
  };
  const tokens = (rows: string, norm: string): Pick<AdapterFacts, 'tokens'> => {
    const [all, one] = [projection.side(rows, 0), projection.side(norm, 0)];
    return all === undefined || one === undefined || one === 0 ? {} : { tokens: all / one };
  };
  const lora = layers.has('0.to_q_lora.down.weight') ? { hasLora: true } : {};
  if (projection.has('perceiver_resampler.proj_in.weight')) {
    return {
      projector: 'faceid-plus',
      inputs: ['face', 'hidden'],
      ...width('perceiver_resampler.proj_in.weight'),
      ...tokens('proj.2.weight', 'norm.weight'),
      ...lora,
    };
  }
  if (projection.has('latents')) {
    const latents = projection.side('latents', 1);
    const counted = latents === undefined ? {} : { tokens: latents };
    // A face vector has 512 entries; no vision encoder's hidden states are as narrow.
    if (projection.side('proj_in.weight', 1) === 512)
      return { projector: 'portrait-unnorm', inputs: ['face'], ...counted };
    return { projector: 'plus', inputs: ['hidden'], ...width('proj_in.weight'), ...counted };
  }
  if (projection.has('proj.3.weight')) return { projector: 'full', inputs: ['hidden'], ...width('proj.0.weight') };
  if (projection.has('proj.2.weight')) {
    const isPortrait = lora.hasLora === undefined;
    return {
      projector: isPortrait ? 'portrait' : 'faceid',
      inputs: ['face'],
      ...tokens('proj.2.weight', 'norm.weight'),
      ...lora,
    };
  }
  return { projector: 'base', inputs: ['embeds'], ...width('proj.weight'), ...tokens('proj.weight', 'norm.weight') };
}

/** A style model: Flux Redux, or the T2I style adapter. */
export function describeStyleModel(keys: Keys): Found | undefined {
  if (keys.has('redux_down.weight', 'redux_up.weight')) {
    const inputWidth = keys.side('redux_up.weight', 1);
    return {
      baseModel: 'flux',
      adapter: { projector: 'redux', inputs: ['hidden'], ...(inputWidth === undefined ? {} : { inputWidth }) },
    };
  }
  if (!keys.has('style_embedding')) return undefined;
  const inputWidth = keys.side('style_embedding', -1);
  return {
    baseModel: 'sd15',
    adapter: { projector: 'style', inputs: ['hidden'], ...(inputWidth === undefined ? {} : { inputWidth }) },
  };
}

const CROSS_BASES: Readonly<Record<number, string>> = { 768: 'sd15', 1024: 'sd21', 2048: 'sdxl', 1280: 'sdxl-refiner' };
/** Channels of a T2I adapter's first convolution that mean SDXL. Source: ComfyUI, `load_t2i_adapter`. */
const T2I_SDXL_CHANNELS = [256, 768];

/** A control network or T2I adapter; undefined for anything else. */
export function describeControlNet(keys: Keys): Found | undefined {
  const isControl =
    keys.hasAny('lora_controlnet', 'controlnet_cond_embedding.conv_in.weight', 'input_hint_block.0.weight') ||
    ['control_model.', 'controlnet_', 'zero_convs.', 'control_add_embedding.', 'pos_embed_input.'].some((start) =>
      keys.hasBelow(start),
    );
  const t2i = keys.find((name) =>
    /^(?:adapter\.)?body\.\d+\.(?:in_conv\.weight|resnets\.0\.block1\.weight)$/.test(name),
  );
  if (!isControl && t2i === undefined) return undefined;
  if (!isControl) {
    const channels = keys.side('conv_in.weight', 1) ?? keys.side('adapter.conv_in.weight', 1);
    if (channels === undefined) return { variant: 't2i-adapter' };
    return { variant: 't2i-adapter', baseModel: T2I_SDXL_CHANNELS.includes(channels) ? 'sdxl' : 'sd15' };
  }
  const variant = keys.has('lora_controlnet') ? { variant: 'control-lora' } : {};
  if (keys.hasBelow('double_blocks.') || keys.has('controlnet_x_embedder.weight'))
    return { baseModel: 'flux', ...variant };
  if (
    keys.find((name) => name.startsWith('joint_blocks.') || name.includes('transformer_blocks.0.ff_context.')) !==
    undefined
  )
    return { baseModel: 'sd3', ...variant };
  const cross = keys.find((name) => name.endsWith('attn2.to_k.weight'));
  const width = cross === undefined ? undefined : keys.table.side(cross.index, 1);
  const baseModel = width === undefined ? undefined : CROSS_BASES[width];
  return { ...variant, ...(baseModel === undefined ? {} : { baseModel }) };
}
