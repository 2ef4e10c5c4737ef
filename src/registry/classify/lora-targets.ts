/** The base model of a LoRA, from the modules that it changes: their names, and the widths of their inputs. */

/** Measured while the modules go by; the rules below decide from it. */
export interface Targets {
  /** Input width of the U-Net's cross attention. */
  crossWidth: number | undefined;
  /** A module of a U-Net. */
  hasUnet: boolean;
  /** Width of text modules in `lora_te_`, and in te2. */
  teWidth: number | undefined;
  te2Width: number | undefined;
  te2Layers: number;
  doubleBlocks: number;
  singleBlocks: number;
  blockWidth: number | undefined;
  signs: Set<string>;
}

/** Names of transformers, in kohya's form (`_`) and with dots. Groups: a number of a block. */
const TRANSFORMER_SIGNS: readonly (readonly [sign: string, pattern: RegExp])[] = [
  ['refiner', /txt_in[._]individual_token_refiner/],
  ['guidance-layer', /distilled_guidance_layer/],
  ['hidream', /double_stream_blocks|single_stream_blocks/],
  ['double', /(?:^|[._])double_blocks[._](\d+)[._]/],
  ['flux-single', /single_transformer_blocks[._](\d+)[._]/],
  ['single', /(?:^|[._])single_blocks[._](\d+)[._]/],
  ['joint', /joint_blocks[._](\d+)[._](?:x|context)_block/],
  ['add-k', /transformer_blocks[._](\d+)[._]attn[._]add_[kqv]_proj/],
  ['qwen-mod', /transformer_blocks[._](\d+)[._](?:img|txt)_(?:mod|mlp)[._]/],
  ['k-img', /blocks[._](\d+)[._]cross_attn[._][kv]_img$/],
  ['wan', /blocks[._](\d+)[._](?:self_attn|cross_attn)[._][qkvo]$/],
  ['wan-ffn', /blocks[._](\d+)[._]ffn[._][02]$/],
  ['ltx', /(?:^|[._])transformer_blocks[._](\d+)[._]attn[12][._]to_[kqv]$/],
  ['lumina', /(?:^|[._])layers[._](\d+)[._](?:attention[._](?:qkv|out|to_[qkv])|feed_forward[._]w[123])/],
  ['auraflow', /double_layers[._](\d+)[._]attn[._]w\d/],
  ['pixart', /blocks[._](\d+)[._]cross_attn[._](?:kv|q)_linear$/],
];
const UNET_PART = /(?:down|up|input|output)_blocks|mid_block|middle_block/;
const CROSS_ATTENTION = /attn2[._](?:processor[._])?to_[kv]$/;
const TEXT_LAYER = /layers[._](\d+)[._]/;

/** What the name of a module says of the model that it belongs to. */
interface ModuleSigns {
  readonly isUnet?: boolean;
  readonly isCrossAttention?: boolean;
  /** Its input is as wide as the text encoder. */
  readonly hasTextWidth?: boolean;
  readonly textLayers?: number;
  /** Signs of transformers, with the number of blocks up to this one. */
  readonly transformer?: readonly (readonly [sign: string, blocks: number])[];
}

function signsOf(module: string, component: string): ModuleSigns {
  if (component === 'te') return { hasTextWidth: module.startsWith('lora_te_') && /self_attn|fc1/.test(module) };
  if (component === 'te2') {
    return {
      hasTextWidth: /self_attn|fc1/.test(module),
      textLayers: Number(TEXT_LAYER.exec(module)?.[1] ?? -1) + 1,
    };
  }
  if (component !== 'unet') return {};
  if (UNET_PART.test(module)) return { isUnet: true, isCrossAttention: CROSS_ATTENTION.test(module) };
  const transformer = TRANSFORMER_SIGNS.flatMap(([sign, pattern]) => {
    const match = pattern.exec(module);
    return match === null ? [] : [[sign, Number(match[1] ?? -1) + 1] as const];
  });
  return { transformer };
}

export function observe(targets: Targets, named: NamedModule, width: number | undefined): void {
  const { module, component } = named;
  // A U-Net whose text width is known has no more to tell.
  if (component === 'unet' && targets.crossWidth !== undefined) return;
  named.signs ??= signsOf(module, component);
  const { isUnet, isCrossAttention, hasTextWidth, textLayers = 0, transformer = [] } = named.signs;
  if (hasTextWidth === true) {
    if (component === 'te') targets.teWidth ??= width;
    else targets.te2Width ??= width;
  }
  targets.te2Layers = Math.max(targets.te2Layers, textLayers);
  if (isUnet === true) targets.hasUnet = true;
  if (isCrossAttention === true) targets.crossWidth = width;
  for (const [sign, block] of transformer) {
    targets.signs.add(sign);
    if (sign === 'double' || sign === 'add-k' || sign === 'qwen-mod')
      targets.doubleBlocks = Math.max(targets.doubleBlocks, block);
    if (sign === 'single' || sign === 'flux-single') targets.singleBlocks = Math.max(targets.singleBlocks, block);
    if (sign === 'joint' || sign === 'wan' || sign === 'add-k') targets.blockWidth ??= width;
    if (sign === 'wan-ffn' && module.endsWith('0')) targets.blockWidth ??= width;
    if (sign === 'joint' && module.includes('attn2')) targets.signs.add('attn2');
  }
}

export interface NamedModule {
  /** The name without the suffix. */
  readonly module: string;
  readonly component: string;
  readonly isBelowUnet: boolean;
  /** Made when somebody asks. */
  signs?: ModuleSigns;
}

const CROSS_BASES: Readonly<Record<number, string>> = { 768: 'sd15', 1024: 'sd21', 2048: 'sdxl', 1280: 'sdxl-refiner' };
const WAN_BASES: Readonly<Record<number, string>> = { 1536: 'wan21-t2v-1.3b', 5120: 'wan-14b', 3072: 'wan22-5b' };
/** Flux has 38 single blocks, HunyuanVideo 40. */
const FLUX_SINGLE_BLOCKS = 38;

/** First rule that fits wins. */
export const BASE_RULES: readonly ((targets: Targets) => string | undefined)[] = [
  ({ crossWidth }) => (crossWidth === undefined ? undefined : CROSS_BASES[crossWidth]),
  ({ hasUnet, te2Width, te2Layers }) =>
    hasUnet && (te2Width !== undefined || te2Layers > 0) ? 'sdxl' : te2Width === 1280 ? 'sdxl' : undefined,
  ({ teWidth, signs }) =>
    signs.size > 0 ? undefined : teWidth === 768 ? 'sd15' : teWidth === 1024 ? 'sd21' : undefined,
  ({ signs }) => (signs.has('guidance-layer') ? 'chroma' : undefined),
  ({ signs, singleBlocks }) =>
    signs.has('refiner') || (signs.has('single') && singleBlocks > FLUX_SINGLE_BLOCKS) ? 'hunyuan-video' : undefined,
  ({ signs }) => (signs.has('hidream') ? 'hidream' : undefined),
  ({ signs }) => (signs.has('flux-single') || signs.has('double') || signs.has('single') ? 'flux' : undefined),
  ({ signs, blockWidth }) =>
    !signs.has('joint')
      ? undefined
      : blockWidth === 2432
        ? 'sd35-large'
        : blockWidth === 1536
          ? signs.has('attn2')
            ? 'sd35-medium'
            : 'sd3-medium'
          : undefined,
  ({ signs, blockWidth }) =>
    (signs.has('add-k') || signs.has('qwen-mod')) && (blockWidth ?? 3072) === 3072 ? 'qwen-image' : undefined,
  ({ signs, blockWidth }) => (signs.has('k-img') && (blockWidth ?? 5120) === 5120 ? 'wan21-i2v-14b' : undefined),
  ({ signs, blockWidth }) =>
    (signs.has('wan') || signs.has('wan-ffn')) && blockWidth !== undefined ? WAN_BASES[blockWidth] : undefined,
  ({ signs }) => (signs.has('auraflow') ? 'auraflow' : undefined),
  ({ signs }) => (signs.has('lumina') ? 'lumina2' : undefined),
  ({ signs }) => (signs.has('ltx') ? 'ltxv' : undefined),
];
