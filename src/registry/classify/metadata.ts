/**
 * What the metadata of a file says: title, licence, trigger words, training.
 *
 * Written by trainers and by people, so every value is taken as a claim: bounded, and never preferred to what the tensors
 * show.
 */
import type { MetadataFacts, ModelFacts, TableFacts, TrainingFacts } from './facts.js';
import { objectOf, readTagFrequencies, type TagFrequencies } from './tag-frequencies.js';

/** Longer texts are cut: descriptions may hold whole pages. */
const MAX_TEXT = 4000;
const MAX_LIST = 1000;
/** The hash of nothing, which some tools write where they could not compute one. */
const EMPTY_HASH = 'e3b0c44298fc';
const AUTO_V3_DIGITS = 12;
const SURROGATE = /[\uD800-\uDFFF]/;

/** What trainers and the model specification call a base model, in our words. First that fits. */
const BASE_NAMES: readonly (readonly [pattern: RegExp, base: string])[] = [
  [/^sd_v1|^stable-diffusion-v1|^sd[ _.-]?1/i, 'sd15'],
  [/^sd_v2|^stable-diffusion-v2|^sd[ _.-]?2/i, 'sd21'],
  [/refiner/i, 'sdxl-refiner'],
  [/^sdxl|^stable-diffusion-xl|^pony|^illustrious|^noobai/i, 'sdxl'],
  [/^(?:sd3[._-]?5|sd35|stable-diffusion-3[._-]?5)[._-]?medium/i, 'sd35-medium'],
  [/^(?:sd3[._-]?5|sd35|stable-diffusion-3[._-]?5)[._-]?large/i, 'sd35-large'],
  [/^(?:sd3|stable-diffusion-3)[._-]?(?:m\b|medium)/i, 'sd3-medium'],
  [/^(?:sd3|stable-diffusion-3)/i, 'sd3'],
  [/^chroma/i, 'chroma'],
  [/^flux[._-]?1?[._-]?schnell/i, 'flux-schnell'],
  [/^flux[._-]?1?[._-]?dev/i, 'flux-dev'],
  [/^flux/i, 'flux'],
  [/^wan.*2[._]?2.*5b/i, 'wan22-5b'],
  [/^wan/i, 'wan21'],
  [/^hunyuan[._-]?video|^hyvid/i, 'hunyuan-video'],
  [/^qwen[._-]?image/i, 'qwen-image'],
  [/^lumina/i, 'lumina2'],
  [/^hidream/i, 'hidream'],
  [/^ltx/i, 'ltxv'],
  [/^pixart.*alpha/i, 'pixart-alpha'],
  [/^pixart/i, 'pixart-sigma'],
  [/^auraflow/i, 'auraflow'],
  [/^z[._-]?image/i, 'z-image'],
];

export function baseFromName(name: string): string | undefined {
  return BASE_NAMES.find(([pattern]) => pattern.test(name.trim()))?.[1];
}

/** Reads the metadata of a file. Values that do not parse are left out. */
export function readMetadataFacts(metadata: ReadonlyMap<string, string>): MetadataFacts {
  const text = (...names: readonly string[]): string | undefined => {
    for (const name of names) {
      const value = metadata.get(name)?.trim();
      if (value !== undefined && value !== '' && value !== 'None' && value !== 'null') return value.slice(0, MAX_TEXT);
    }
    return undefined;
  };
  const base = text('ss_base_model_version', 'modelspec.architecture', 'general.architecture');
  const hash = text('sshs_model_hash', 'modelspec.hash_sha256')?.replace(/^0x/i, '').toLowerCase();
  const autoV3 = hash !== undefined && /^[0-9a-f]{12,}$/.test(hash) ? hash.slice(0, AUTO_V3_DIGITS) : undefined;
  return withoutAbsent({
    title: text('modelspec.title', 'ss_output_name', 'name', 'general.name'),
    author: text('modelspec.author', 'general.author'),
    license: text('modelspec.license', 'license', 'general.license'),
    description: text('modelspec.description', 'description'),
    date: text('modelspec.date'),
    triggerWords: wordList(text('modelspec.trigger_phrase'), text('trained_words', 'ss_trigger_words')),
    tags: splitWords(text('modelspec.tags')),
    training: readTraining(metadata, text),
    baseModel: base === undefined ? undefined : baseFromName(base),
    prediction: text('modelspec.prediction_type')?.replace(/^v_prediction$|^v-prediction$/, 'v'),
    networkModule: text('ss_network_module'),
    networkAlpha: numberOf(text('ss_network_alpha')),
    algorithm: algorithmOf(text('ss_network_args')),
    autoV3Embedded: autoV3 === EMPTY_HASH ? undefined : autoV3,
    legacyHash: text('sshs_legacy_hash'),
  });
}

type Present<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

function withoutAbsent<T extends object>(value: T): Present<T> {
  return Object.fromEntries(Object.entries(value).filter(([, entry]) => entry !== undefined)) as Present<T>;
}

function readTraining(
  metadata: ReadonlyMap<string, string>,
  text: (...names: readonly string[]) => string | undefined,
): TrainingFacts | undefined {
  const frequencies = readTagFrequencies(metadata.get('ss_tag_frequency'));
  const folders = [...frequencies.keys()].slice(0, MAX_LIST);
  const tags = countTags(frequencies);
  const training = withoutAbsent({
    folders: folders.length === 0 ? undefined : folders,
    concepts: folders.length === 0 ? undefined : folders.map((folder) => folder.replace(/^\d+_/, '')),
    tags: tags.length === 0 ? undefined : tags,
    baseFile: text('ss_sd_model_name'),
    outputName: text('ss_output_name'),
    steps: numberOf(text('ss_steps')) ?? numberOf(fieldOf(text('training_info'), 'step')),
    epochs: numberOf(text('ss_epoch')) ?? numberOf(fieldOf(text('training_info'), 'epoch')),
    images: numberOf(text('ss_num_train_images')),
    resolution: text('ss_resolution', 'modelspec.resolution'),
    learningRate: text('ss_learning_rate'),
    finished: dateOf(text('ss_training_finished_at')),
    software: fieldOf(text('software'), 'name'),
  });
  return Object.keys(training).length === 0 ? undefined : training;
}

/** Counts of a tag over all folders, most frequent first, then by code point. */
function countTags(frequencies: TagFrequencies): (readonly [string, number])[] {
  const counts = new Map<string, number>();
  for (const folder of frequencies.values()) {
    for (const [tag, count] of folder) {
      const name = tag.trim();
      if (name !== '') counts.set(name, (counts.get(name) ?? 0) + count);
    }
  }
  const sorted = [...counts].sort((a, b) => b[1] - a[1] || compareCodePoints(a[0], b[0]));
  return sorted.length > MAX_LIST ? sorted.slice(0, MAX_LIST) : sorted;
}

/** As Python compares: by code point, where JavaScript compares halves of surrogate pairs. */
function compareCodePoints(a: string, b: string): number {
  if (!SURROGATE.test(a) && !SURROGATE.test(b)) return a < b ? -1 : a > b ? 1 : 0;
  const [x, y] = [Array.from(a), Array.from(b)];
  for (let i = 0; i < Math.min(x.length, y.length); i += 1) {
    const difference = (x[i]?.codePointAt(0) ?? 0) - (y[i]?.codePointAt(0) ?? 0);
    if (difference !== 0) return difference;
  }
  return x.length - y.length;
}

function fieldOf(text: string | undefined, field: string): string | undefined {
  const value = objectOf(text)?.[field];
  return typeof value === 'string' || typeof value === 'number' ? String(value) : undefined;
}

function numberOf(text: string | undefined): number | undefined {
  const value = text === undefined ? Number.NaN : Number(text);
  return Number.isFinite(value) ? value : undefined;
}

/** Seconds since the epoch as an ISO date. */
function dateOf(text: string | undefined): string | undefined {
  const seconds = numberOf(text);
  if (seconds === undefined || seconds <= 0 || seconds > 1e11) return undefined;
  return new Date(seconds * 1000).toISOString();
}

function algorithmOf(text: string | undefined): string | undefined {
  return fieldOf(text, 'algo');
}

function splitWords(text: string | undefined): readonly string[] | undefined {
  const words = (text ?? '').split(',').flatMap((word) => (word.trim() === '' ? [] : [word.trim()]));
  return words.length === 0 ? undefined : words.slice(0, MAX_LIST);
}

/** Comma-separated, or a JSON list. */
function wordList(phrase: string | undefined, trained: string | undefined): readonly string[] | undefined {
  const listed = trained?.startsWith('[') === true ? jsonTexts(trained) : splitWords(trained);
  const words = [...new Set([...(splitWords(phrase) ?? []), ...(listed ?? [])])];
  return words.length === 0 ? undefined : words;
}

function jsonTexts(text: string): string[] {
  try {
    const value: unknown = JSON.parse(text);
    return Array.isArray(value) ? value.filter((entry): entry is string => typeof entry === 'string') : [];
  } catch {
    return [];
  }
}

/** Base models that are one kind to a LoRA: `flux-dev` and `flux`. */
function baseFamily(base: string): string {
  return (
    /^(?:sdxl|sd15|sd21|sd3|sd35|flux|chroma|wan|hunyuan-video|pixart)/.exec(base)?.[0].replace('sd35', 'sd3') ?? base
  );
}

/** Whether two base models are one kind to a LoRA. */
export function isSameFamily(a: string, b: string): boolean {
  return baseFamily(a) === baseFamily(b);
}

/**
 * Tensors first; the metadata fills what they leave open, and a contradiction is a warning.
 *
 * @param readAlpha Asked for the scale that lies in a tensor, where the metadata has none.
 */
export function joinFacts(
  table: TableFacts,
  metadata: MetadataFacts,
  readAlpha?: (tensor: NonNullable<TableFacts['alphaTensor']>) => number | undefined,
): ModelFacts {
  const { alphaTensor, ...facts } = table;
  const { networkAlpha, networkModule, algorithm, baseModel: claimed, ...told } = metadata;
  const warnings = [...(facts.warnings ?? [])];
  const takesClaim = facts.kind === 'lora' || facts.kind === 'embedding' || facts.kind === 'controlnet';
  if (claimed !== undefined && facts.baseModel !== undefined && baseFamily(claimed) !== baseFamily(facts.baseModel)) {
    warnings.push(`the metadata names the base model ${claimed}, but the tensors belong to ${facts.baseModel}`);
  }
  const baseModel = facts.baseModel ?? (takesClaim ? claimed : undefined);
  const scale = networkAlpha ?? (alphaTensor === undefined ? undefined : readAlpha?.(alphaTensor));
  const isLocon = facts.lora?.algorithm === 'lora' && algorithm === 'locon';
  return {
    ...told,
    ...facts,
    ...(baseModel === undefined ? {} : { baseModel }),
    ...(facts.lora === undefined
      ? {}
      : {
          lora: {
            ...facts.lora,
            ...(isLocon ? { algorithm: 'locon' as const } : {}),
            ...(scale === undefined ? {} : { alpha: scale }),
            ...(networkModule === undefined ? {} : { networkModule }),
          },
        }),
    ...(warnings.length === 0 ? {} : { warnings }),
  };
}
