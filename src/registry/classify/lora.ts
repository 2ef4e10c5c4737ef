/**
 * LoRAs and their kin: algorithm, rank, targets, and the base model that the targets belong to.
 *
 * A header has some 800 names and a folder thousands of files, but most names come again and again: what one says by itself
 * is found out once.
 */
import type { TensorTable } from '../../formats/index.js';
import type { LoraFacts, TableFacts } from './facts.js';

type Family = 'lora' | 'loha' | 'lokr' | 'oft' | 'full' | 'glora' | 'shared';
/** `down`: first side is the rank; `alpha`: the scale; `first`: one per module of its family; `part`: anything else. */
type Role = 'down' | 'up' | 'alpha' | 'dora' | 'factor' | 'first' | 'part';

interface Suffix {
  readonly text: string;
  readonly family: Family;
  readonly role: Role;
  readonly keyStyle?: LoraFacts['keyStyle'];
}

const suffix = (text: string, family: Family, role: Role, keyStyle?: LoraFacts['keyStyle']): Suffix => ({
  text,
  family,
  role,
  ...(keyStyle === undefined ? {} : { keyStyle }),
});

/** Those that end in `.weight`, without it. */
const WEIGHT_SUFFIXES: readonly Suffix[] = [
  suffix('.lora_down', 'lora', 'down'),
  suffix('.lora_up', 'lora', 'up'),
  suffix('.lora_mid', 'lora', 'part'),
  suffix('.lora_A', 'lora', 'down', 'peft'),
  suffix('.lora_B', 'lora', 'up', 'peft'),
  suffix('.lora_A.default', 'lora', 'down', 'peft'),
  suffix('.lora_B.default', 'lora', 'up', 'peft'),
  suffix('_lora.down', 'lora', 'down', 'diffusers'),
  suffix('_lora.up', 'lora', 'up', 'diffusers'),
  suffix('.lora.down', 'lora', 'down', 'diffusers'),
  suffix('.lora.up', 'lora', 'up', 'diffusers'),
  suffix('.lora_linear_layer.down', 'lora', 'down', 'diffusers'),
  suffix('.lora_linear_layer.up', 'lora', 'up', 'diffusers'),
  suffix('.a1', 'glora', 'factor'),
  suffix('.a2', 'glora', 'first'),
  suffix('.b1', 'glora', 'part'),
  suffix('.b2', 'glora', 'part'),
];

const OTHER_SUFFIXES: readonly Suffix[] = [
  suffix('.alpha', 'shared', 'alpha'),
  suffix('.dora_scale', 'shared', 'dora'),
  suffix('.lora_magnitude_vector', 'shared', 'dora', 'peft'),
  suffix('.hada_w1_a', 'loha', 'first'),
  suffix('.hada_w1_b', 'loha', 'factor'),
  suffix('.hada_w2_a', 'loha', 'part'),
  suffix('.hada_w2_b', 'loha', 'part'),
  suffix('.hada_t1', 'loha', 'part'),
  suffix('.hada_t2', 'loha', 'part'),
  suffix('.lokr_w1', 'lokr', 'first'),
  suffix('.lokr_w1_a', 'lokr', 'first'),
  suffix('.lokr_w1_b', 'lokr', 'factor'),
  suffix('.lokr_w2', 'lokr', 'part'),
  suffix('.lokr_w2_a', 'lokr', 'part'),
  suffix('.lokr_w2_b', 'lokr', 'factor'),
  suffix('.lokr_t2', 'lokr', 'part'),
  suffix('.oft_blocks', 'oft', 'first'),
  suffix('.oft_diag', 'oft', 'first'),
  suffix('.diff', 'full', 'part'),
  suffix('.diff_b', 'full', 'part'),
  suffix('.set_weight', 'full', 'part'),
  suffix('.w_norm', 'full', 'part'),
  suffix('.b_norm', 'full', 'part'),
];

const WEIGHT = '.weight';
const byLastLetter = (suffixes: readonly Suffix[]): readonly (readonly Suffix[])[] => {
  const table: Suffix[][] = Array.from({ length: 128 }, () => []);
  for (const entry of suffixes) table[entry.text.charCodeAt(entry.text.length - 1)]?.push(entry);
  return table;
};
const WEIGHT_TABLE = byLastLetter(WEIGHT_SUFFIXES);
const OTHER_TABLE = byLastLetter(OTHER_SUFFIXES);

/** The suffix that a name ends in. */
function suffixOf(name: string): Suffix | undefined {
  const isWeight = name.endsWith(WEIGHT);
  const stop = isWeight ? name.length - WEIGHT.length : name.length;
  const candidates = (isWeight ? WEIGHT_TABLE : OTHER_TABLE)[name.charCodeAt(stop - 1)];
  if (candidates === undefined) return undefined;
  for (const candidate of candidates) {
    const from = stop - candidate.text.length;
    if (from > 0 && name.startsWith(candidate.text, from)) return candidate;
  }
  return undefined;
}

/** Families whose names nothing else uses; `full` and `shared` alone make no LoRA. */
const DECISIVE: ReadonlySet<Family> = new Set<Family>(['lora', 'loha', 'lokr', 'oft']);

/** What a module belongs to, by the beginning of its name. */
const COMPONENTS: readonly (readonly [start: string, component: string])[] = [
  ['lora_unet_', 'unet'],
  ['lora_te_', 'te'],
  ['lora_te1_', 'te1'],
  ['lora_te2_', 'te2'],
  ['lora_te3_', 'te3'],
  ['lora_transformer_', 'unet'],
  ['lycoris_', 'unet'],
  ['unet.', 'unet'],
  ['transformer.', 'unet'],
  ['diffusion_model.', 'unet'],
  ['text_encoder.', 'te'],
  ['text_encoder_2.', 'te2'],
  ['text_encoder_3.', 'te3'],
  ['text_encoders.', 'te'],
  ['base_model.model.text_encoder.', 'te'],
];

function componentOf(name: string): string {
  for (const [beginning, component] of COMPONENTS) if (name.startsWith(beginning)) return component;
  return 'unet';
}

/** Measured while the modules go by; the rules below decide from it. */
interface Targets {
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

function observe(targets: Targets, named: NamedModule, width: number | undefined): void {
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

/** What the beginning of a name says, besides the suffix. */
const KOHYA = 1;
/** The file is no LoRA, whatever else is in it. */
const FOREIGN = 2;
const SUFFIX_SHIFT = 2;
const SUFFIXES = [...WEIGHT_SUFFIXES, ...OTHER_SUFFIXES];

/** Adapters and control networks hold LoRA matrices too, and are told by how their names begin. */
const FOREIGN_NAME = /^(?:ip_adapter|adapter_modules|image_proj|id_encoder|first_stage_model)\./;

/** What a name says by itself, as one number: flags, and above them the place of the suffix plus one. */
function codeOf(name: string): number {
  const suffix = suffixOf(name);
  const isKohya = name.startsWith('lora_') || name.startsWith('lycoris_');
  const flags = isKohya ? KOHYA : FOREIGN_NAME.test(name) ? FOREIGN : 0;
  return flags | ((suffix === undefined ? 0 : SUFFIXES.indexOf(suffix) + 1) << SUFFIX_SHIFT);
}

interface NamedModule {
  /** The name without the suffix. */
  readonly module: string;
  readonly component: string;
  readonly isBelowUnet: boolean;
  /** Made when somebody asks. */
  signs?: ModuleSigns;
}

function moduleOf(name: string): NamedModule {
  const length = suffixOf(name)?.text.length ?? 0;
  return {
    module: name.slice(0, name.length - length - (name.endsWith(WEIGHT) ? WEIGHT.length : 0)),
    component: componentOf(name),
    isBelowUnet: name.startsWith('unet.'),
  };
}

const CROSS_BASES: Readonly<Record<number, string>> = { 768: 'sd15', 1024: 'sd21', 2048: 'sdxl', 1280: 'sdxl-refiner' };
const WAN_BASES: Readonly<Record<number, string>> = { 1536: 'wan21-t2v-1.3b', 5120: 'wan-14b', 3072: 'wan22-5b' };
/** Flux has 38 single blocks, HunyuanVideo 40. */
const FLUX_SINGLE_BLOCKS = 38;

/** First rule that fits wins. */
const BASE_RULES: readonly ((targets: Targets) => string | undefined)[] = [
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

type LoraTableFacts = Pick<TableFacts, 'baseModel' | 'lora' | 'alphaTensor' | 'warnings'>;

/** What a LoRA is; undefined for a table that is none. */
export function describeLora(table: TensorTable): LoraTableFacts | undefined {
  const { names, ids, count } = table.columns;
  const code = names.memo(codeOf);
  const moduleAt = names.memo(moduleOf);
  const families = new Set<Family>();
  const ranks = new Map<number, number>();
  const components: Record<string, number> = {};
  const modules = new Set<string>();
  const targets: Targets = {
    crossWidth: undefined,
    hasUnet: false,
    teWidth: undefined,
    te2Width: undefined,
    te2Layers: 0,
    doubleBlocks: 0,
    singleBlocks: 0,
    blockWidth: undefined,
    signs: new Set(),
  };
  let plainModules = 0;
  let keyStyle: LoraFacts['keyStyle'] = 'kohya';
  let alphaTensor: TableFacts['alphaTensor'];
  let hasDora = false;
  let isConvolution = false;
  let isPlainPeft = false;
  let isKohya = false;
  for (let i = 0; i < count; i += 1) {
    const id = ids[i] ?? 0;
    const told = code(id);
    if ((told & FOREIGN) !== 0) return undefined;
    if ((told & KOHYA) !== 0) isKohya = true;
    const found = SUFFIXES[(told >> SUFFIX_SHIFT) - 1];
    if (found === undefined) continue;
    const { family, role } = found;
    if (role === 'alpha') {
      alphaTensor ??= alphaOf(table, i);
      continue;
    }
    if (role === 'dora') {
      hasDora = true;
      continue;
    }
    families.add(family);
    if (family === 'lora') {
      if (role !== 'down') continue;
      const named = moduleAt(id);
      const { component } = named;
      if (found.keyStyle !== undefined) keyStyle = found.keyStyle;
      plainModules += 1;
      components[component] = (components[component] ?? 0) + 1;
      addRank(ranks, table.side(i, 0));
      if (table.rank(i) === 4 && (table.side(i, 2) ?? 1) > 1) isConvolution = true;
      if (found.keyStyle === 'peft' && named.isBelowUnet) isPlainPeft = true;
      observe(targets, named, table.side(i, 1));
      continue;
    }
    if (role === 'factor') addRank(ranks, table.side(i, 0));
    const named = moduleAt(id);
    const { module, component } = named;
    if (modules.has(module)) continue;
    modules.add(module);
    components[component] = (components[component] ?? 0) + 1;
    observe(targets, named, inputWidth(table, module, family));
  }
  if (![...families].some((family) => DECISIVE.has(family)) && !isFull(families, modules.size, count)) return undefined;
  const lora: LoraFacts = {
    algorithm: algorithmOf(families, hasDora, isConvolution),
    keyStyle: keyStyle === 'kohya' && !isKohya ? 'diffusers' : keyStyle,
    ...rankFacts(ranks),
    modules: plainModules + modules.size,
    components: withNamedFirst(components),
  };
  let baseModel: string | undefined;
  for (const rule of BASE_RULES) {
    baseModel = rule(targets);
    if (baseModel !== undefined) break;
  }
  const warnings =
    isPlainPeft && targets.hasUnet
      ? ['ComfyUI does not apply the U-Net part of a LoRA with these PEFT names: "lora key not loaded"']
      : [];
  return {
    lora,
    ...(baseModel === undefined ? {} : { baseModel }),
    ...(alphaTensor === undefined ? {} : { alphaTensor }),
    ...(warnings.length === 0 ? {} : { warnings }),
  };
}

/** Full differences and nothing else: most names must be such, for single ones occur in other models. */
function isFull(families: ReadonlySet<Family>, modules: number, tensors: number): boolean {
  return (families.has('full') || families.has('glora')) && modules * 4 >= tensors;
}

function algorithmOf(families: ReadonlySet<Family>, hasDora: boolean, isConvolution: boolean): LoraFacts['algorithm'] {
  if (hasDora) return 'dora';
  if (families.has('loha')) return 'loha';
  if (families.has('lokr')) return 'lokr';
  if (families.has('oft')) return 'oft';
  if (families.has('lora')) return isConvolution ? 'locon' : 'lora';
  return families.has('glora') ? 'glora' : 'full';
}

function addRank(ranks: Map<number, number>, rank: number | undefined): void {
  if (rank !== undefined) ranks.set(rank, (ranks.get(rank) ?? 0) + 1);
}

function rankFacts(ranks: ReadonlyMap<number, number>): Pick<LoraFacts, 'rank' | 'rankMin' | 'rankMax'> {
  const sorted = [...ranks].sort(([a, x], [b, y]) => y - x || a - b);
  const most = sorted[0]?.[0];
  if (most === undefined) return {};
  return { rank: most, rankMin: Math.min(...ranks.keys()), rankMax: Math.max(...ranks.keys()) };
}

function alphaOf(table: TensorTable, index: number): TableFacts['alphaTensor'] {
  const { offsets, sizes } = table.columns;
  if (table.parameters(index) !== 1) return undefined;
  return { dtype: table.dtype(index), offset: offsets[index] ?? 0, sizeBytes: sizes[index] ?? 0 };
}

/** Width of what goes into a module, from the factors of its family. */
function inputWidth(table: TensorTable, module: string, family: Family): number | undefined {
  const side = (part: string, axis: number): number | undefined => {
    const index = table.indexOf(module + part);
    return index === -1 ? undefined : table.side(index, axis);
  };
  if (family === 'loha') return side('.hada_w1_b', 1);
  if (family === 'lokr') {
    const first = side('.lokr_w1', 1) ?? side('.lokr_w1_b', 1);
    const second = side('.lokr_w2', 1) ?? side('.lokr_w2_b', 1);
    return first === undefined || second === undefined ? undefined : first * second;
  }
  return family === 'full' ? side('.diff', 1) : undefined;
}

/** A text encoder without a number is the first one where there is a second. */
function withNamedFirst(components: Readonly<Record<string, number>>): Record<string, number> {
  const { te, ...others } = components;
  if (te === undefined) return others;
  return others['te2'] === undefined ? { ...others, te } : { ...others, te1: (others['te1'] ?? 0) + te };
}
