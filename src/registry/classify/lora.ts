/**
 * LoRAs and their kin: algorithm, rank, targets, and the base model that the targets belong to.
 *
 * A header has some 800 names and a folder thousands of files, but most names come again and again: what one says by itself
 * is found out once.
 */
import type { TensorTable } from '../../formats/index.js';
import type { LoraFacts, TableFacts } from './facts.js';
import { codeOf, FOREIGN, KOHYA, moduleOf, SUFFIXES, SUFFIX_SHIFT, type Family } from './lora-names.js';
import { BASE_RULES, observe, type Targets } from './lora-targets.js';

/** Families whose names nothing else uses; `full` and `shared` alone make no LoRA. */
const DECISIVE: ReadonlySet<Family> = new Set<Family>(['lora', 'loha', 'lokr', 'oft']);

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
