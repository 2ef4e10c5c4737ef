/** What the names of a LoRA's tensors say: suffix, module, component. */
import type { LoraFacts } from './facts.js';
import type { NamedModule } from './lora-targets.js';

export type Family = 'lora' | 'loha' | 'lokr' | 'oft' | 'full' | 'glora' | 'shared';
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

/** What the beginning of a name says, besides the suffix. */
export const KOHYA = 1;
/** The file is no LoRA, whatever else is in it. */
export const FOREIGN = 2;
export const SUFFIX_SHIFT = 2;
export const SUFFIXES = [...WEIGHT_SUFFIXES, ...OTHER_SUFFIXES];

/** Adapters and control networks hold LoRA matrices too, and are told by how their names begin. */
const FOREIGN_NAME = /^(?:ip_adapter|adapter_modules|image_proj|id_encoder|first_stage_model)\./;

/** What a name says by itself, as one number: flags, and above them the place of the suffix plus one. */
export function codeOf(name: string): number {
  const suffix = suffixOf(name);
  const isKohya = name.startsWith('lora_') || name.startsWith('lycoris_');
  const flags = isKohya ? KOHYA : FOREIGN_NAME.test(name) ? FOREIGN : 0;
  return flags | ((suffix === undefined ? 0 : SUFFIXES.indexOf(suffix) + 1) << SUFFIX_SHIFT);
}

export function moduleOf(name: string): NamedModule {
  const length = suffixOf(name)?.text.length ?? 0;
  return {
    module: name.slice(0, name.length - length - (name.endsWith(WEIGHT) ? WEIGHT.length : 0)),
    component: componentOf(name),
    isBelowUnet: name.startsWith('unet.'),
  };
}
