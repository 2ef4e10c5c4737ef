/**
 * What other programs wrote beside a model: the files of LoRA-Manager, Civitai helpers, StabilityMatrix and others, the
 * pictures, and the tables of models in several files.
 *
 * All of it is a claim: it was true of some file once. Read bounded, never written.
 *
 * Source: the documents of these programs, and Civitai's `/api/v1/model-versions`, whose answers most of them keep.
 */
import { readdir, stat } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { openRegularFile } from '../common/regular-file.js';
import { stampKey, stampOf } from '../formats/index.js';
import { baseFromName } from './classify/metadata.js';

export interface SidecarClaims {
  readonly title?: string;
  /** In our words, where they have one for it. */
  readonly baseModel?: string;
  /** As it is written there. */
  readonly baseModelText?: string;
  readonly triggerWords?: readonly string[];
  readonly tags?: readonly string[];
  readonly description?: string;
  readonly notes?: string;
  readonly url?: string;
  /** Lower case, by name: sha256, autoV3, blake3, crc32. */
  readonly hashes?: Readonly<Record<string, string>>;
}

interface FoundSidecar {
  readonly path: string;
  /** Changes when it is written. */
  readonly key: string;
}

interface FoundBeside {
  /** Base name of the model. */
  readonly name: string;
  /** Most trusted first. */
  readonly sidecars: readonly FoundSidecar[];
  /** Path of the picture that ComfyUI would show. */
  readonly preview?: string;
}

/** A table of a model in several files. */
export interface ShardIndex {
  readonly path: string;
  /** Base names of the files; empty where the table cannot be read. */
  readonly files: readonly string[];
  readonly problem?: string;
}

export interface FolderBeside {
  readonly folder: string;
  /** Models that have something beside them. */
  readonly models: readonly FoundBeside[];
  readonly indexes: readonly ShardIndex[];
}

const MAX_SIDECAR_BYTES = 4 * 2 ** 20;
const MAX_INDEX_BYTES = 8 * 2 ** 20;
const MAX_SHARDS = 1000;
const MAX_TEXT = 1000;
const MAX_WORDS = 100;
const MAX_WORD = 300;
const INDEX_NAME = /\.(?:safetensors|bin|pth?|ckpt)\.index\.json$/i;
const MODEL_NAME = /\.(?:ckpt|pt2?|bin|pth|safetensors|pkl|sft|gguf|onnx)$/i;
/** ComfyUI: pictures of the model's own name first, then `.preview`. */
const PICTURE_STEMS = ['', '.preview'];
const PICTURE_ENDINGS = ['.png', '.jpg', '.jpeg', '.webp', '.gif', '.bmp', '.avif', '.tif', '.tiff'];

/** Endings of sidecars, most trusted first: what programs keep up to date before what was downloaded once. */
const FORMS: readonly {
  readonly ending: string;
  /** Behind the whole name (`x.safetensors.rgthree-info.json`) and not behind the name without its ending. */
  readonly isOfWholeName?: boolean;
  readonly read: (json: Json) => SidecarClaims | undefined;
}[] = [
  { ending: '.metadata.json', read: readLoraManager },
  { ending: '.civitai.info', read: readVersion },
  { ending: '.cm-info.json', read: readStabilityMatrix },
  { ending: '.rgthree-info.json', isOfWholeName: true, read: readRgthree },
  { ending: '.json', read: readWebUi },
];

/** Looks at one folder, without its subfolders. A folder that cannot be listed has nothing. */
export async function listBeside(folder: string): Promise<FolderBeside> {
  const names = await readdir(folder).catch((): string[] => []);
  const all = new Set(names);
  const models: FoundBeside[] = [];
  const indexes: ShardIndex[] = [];
  for (const name of names) {
    if (INDEX_NAME.test(name)) indexes.push(await readIndex(join(folder, name)));
    if (!MODEL_NAME.test(name)) continue;
    const stem = name.slice(0, -extname(name).length);
    const sidecars: FoundSidecar[] = [];
    for (const { ending, isOfWholeName } of FORMS) {
      const beside = (isOfWholeName === true ? name : stem) + ending;
      const found = all.has(beside) ? await stateOf(join(folder, beside)) : undefined;
      if (found !== undefined) sidecars.push(found);
    }
    const preview = PICTURE_STEMS.flatMap((part) => PICTURE_ENDINGS.map((ending) => stem + part + ending)).find(
      (candidate) => all.has(candidate),
    );
    if (sidecars.length === 0 && preview === undefined) continue;
    models.push({ name, sidecars, ...(preview === undefined ? {} : { preview: join(folder, preview) }) });
  }
  return { folder, models, indexes };
}

async function stateOf(path: string): Promise<FoundSidecar | undefined> {
  try {
    const stats = await stat(path);
    return stats.isFile() ? { path, key: stampKey(stampOf(stats)) } : undefined;
  } catch {
    return undefined; // removed meanwhile, or a link that leads nowhere
  }
}

/** Names of a table's files. A table that cannot be used says why. */
async function readIndex(path: string): Promise<ShardIndex> {
  const json = await readJson(path, MAX_INDEX_BYTES);
  const map = objectOf(json?.['weight_map']);
  if (map === undefined) return { path, files: [], problem: 'it has no table "weight_map" of tensor and file names' };
  const files = new Set<string>();
  for (const file of Object.values(map)) if (typeof file === 'string') files.add(file);
  const outside = [...files].find((name) => name === '' || name === '.' || name === '..' || /[/\\\0:]/.test(name));
  if (outside !== undefined)
    return {
      path,
      files: [],
      problem: `it names ${JSON.stringify(outside.slice(0, 100))}, which is no file beside it`,
    };
  if (files.size > MAX_SHARDS) return { path, files: [], problem: `it names ${files.size} files` };
  return { path, files: [...files].sort() };
}

/** What a sidecar claims; undefined for one that cannot be read or is something else. */
export async function readSidecar(path: string): Promise<SidecarClaims | undefined> {
  const form = FORMS.find(({ ending }) => path.endsWith(ending));
  const json = form === undefined ? undefined : await readJson(path, MAX_SIDECAR_BYTES);
  if (form === undefined || json === undefined) return undefined;
  const claims = form.read(json);
  return claims === undefined || Object.keys(claims).length === 0 ? undefined : claims;
}

type Json = Readonly<Record<string, unknown>>;

async function readJson(path: string, maxBytes: number): Promise<Json | undefined> {
  try {
    const file = await openRegularFile(path);
    try {
      const { size } = await file.stat();
      if (size > maxBytes) return undefined;
      const bytes = Buffer.alloc(size);
      const { bytesRead } = await file.read(bytes, 0, bytes.length, 0);
      return objectOf(JSON.parse(bytes.toString('utf8', 0, bytesRead).replace(/^\uFEFF/, '')));
    } finally {
      await file.close();
    }
  } catch {
    return undefined; // gone, not allowed, or no JSON: it tells nothing
  }
}

function readLoraManager(json: Json): SidecarClaims | undefined {
  if (!('model_name' in json || 'base_model' in json || 'sha256' in json || 'file_name' in json)) return undefined;
  const version = objectOf(json['civitai']);
  const { hashes, triggerWords, url }: SidecarClaims = version === undefined ? {} : readVersion(version);
  const sha256 = hex(json['sha256']);
  return withoutAbsent({
    title: text(json['model_name']),
    ...base(text(json['base_model'])),
    triggerWords: triggerWords ?? words(json['trainedWords']),
    tags: words(json['tags']),
    description: text(json['modelDescription']),
    notes: text(json['notes']),
    url,
    hashes: sha256 === undefined ? hashes : { ...(hashes ?? {}), sha256 },
  });
}

/** Civitai's own description of a version, as helpers keep it. */
function readVersion(json: Json): SidecarClaims {
  const model = objectOf(json['model']);
  const title = [text(model?.['name']), text(json['name'])].filter((part) => part !== undefined).join(' ');
  const files = listOf(json['files']).map(objectOf);
  const file = files.find((entry) => entry?.['primary'] === true) ?? files[0];
  const [modelId, id] = [json['modelId'], json['id']];
  return withoutAbsent({
    title: title === '' ? undefined : title,
    ...base(text(json['baseModel'])),
    triggerWords: words(json['trainedWords']),
    tags: words(model?.['tags']),
    description: text(json['description']),
    url:
      typeof modelId === 'number' && typeof id === 'number'
        ? `https://civitai.com/models/${modelId}?modelVersionId=${id}`
        : undefined,
    hashes: hashesOf(objectOf(file?.['hashes'])),
  });
}

function readStabilityMatrix(json: Json): SidecarClaims | undefined {
  if (!('ModelName' in json || 'BaseModel' in json)) return undefined;
  const title = [text(json['UserTitle']) ?? text(json['ModelName']), text(json['VersionName'])];
  const [modelId, id] = [json['ModelId'], json['VersionId']];
  return withoutAbsent({
    title: title.filter((part) => part !== undefined).join(' ') || undefined,
    ...base(text(json['BaseModel'])),
    triggerWords: words(json['TrainedWords']),
    tags: words(json['Tags']),
    description: text(json['ModelDescription']),
    url:
      typeof modelId === 'number' && typeof id === 'number'
        ? `https://civitai.com/models/${modelId}?modelVersionId=${id}`
        : undefined,
    hashes: hashesOf(objectOf(json['Hashes'])),
  });
}

function readRgthree(json: Json): SidecarClaims {
  return withoutAbsent({
    title: text(json['name']),
    ...base(text(json['baseModel'])),
    triggerWords: words(listOf(json['trainedWords']).map((entry) => objectOf(entry)?.['word'] ?? entry)),
    hashes: hashesOf({ sha256: json['sha256'] }),
  });
}

/** A1111's own; any other JSON of the model's name (a `config.json`'s kind) is passed over. */
function readWebUi(json: Json): SidecarClaims | undefined {
  if (!('activation text' in json || 'sd version' in json)) return undefined;
  const version = text(json['sd version']);
  return withoutAbsent({
    ...base(version === undefined || version === 'Unknown' ? undefined : version),
    triggerWords: words([json['activation text']]),
    description: text(json['description']),
    notes: text(json['notes']),
  });
}

/** What Civitai calls a base model, where the rules for metadata do not know it. First that fits. */
const CIVITAI_BASES: readonly (readonly [pattern: RegExp, base: string])[] = [
  [/^pony v?7/i, 'auraflow'],
  [/^flux\.?2/i, 'flux2'],
  [/^flux\.?1? ?s\b/i, 'flux-schnell'],
  [/^flux\.?1? ?(?:d|krea|kontext)/i, 'flux-dev'],
  [/^sd ?3\.5 ?large/i, 'sd35-large'],
  [/^sd ?3\.5 ?medium/i, 'sd35-medium'],
  [/^sd ?3/i, 'sd3'],
  [/^svd/i, 'svd'],
  [/^hunyuan video/i, 'hunyuan-video'],
  [/^pixart ?(?:a|α)\b/i, 'pixart-alpha'],
  [/^pixart ?(?:e|Σ)\b/i, 'pixart-sigma'],
  [/^wan.*1\.3b/i, 'wan21-t2v-1.3b'],
  [/^wan.*2\.2.*5b/i, 'wan22-5b'],
  [/^wan.*14b t2v/i, 'wan21-t2v-14b'],
  [/^wan.*14b i2v/i, 'wan21-i2v-14b'],
  [/^wan/i, 'wan21'],
  [/^qwen/i, 'qwen-image'],
  [/^z-?image/i, 'z-image'],
  [/^kolors/i, 'kolors'],
  [/^mochi/i, 'mochi'],
  [/^auraflow/i, 'auraflow'],
];

function base(name: string | undefined): Pick<SidecarClaims, 'baseModel' | 'baseModelText'> {
  if (name === undefined || /^(?:other|unknown)$/i.test(name)) return {};
  const known = CIVITAI_BASES.find(([pattern]) => pattern.test(name))?.[1] ?? baseFromName(name);
  return { baseModelText: name, ...(known === undefined ? {} : { baseModel: known }) };
}

const HASH_NAMES: Readonly<Record<string, string>> = {
  sha256: 'sha256',
  autov3: 'autoV3',
  blake3: 'blake3',
  crc32: 'crc32',
};

function hashesOf(json: Json | undefined): Readonly<Record<string, string>> | undefined {
  const found: Record<string, string> = {};
  for (const [name, value] of Object.entries(json ?? {}).slice(0, MAX_WORDS)) {
    const known = HASH_NAMES[name.toLowerCase()];
    const digits = hex(value);
    if (known !== undefined && digits !== undefined) found[known] = digits;
  }
  return Object.keys(found).length === 0 ? undefined : found;
}

function hex(value: unknown): string | undefined {
  return typeof value === 'string' && /^[0-9a-f]{8,64}$/i.test(value) ? value.toLowerCase() : undefined;
}

function text(value: unknown): string | undefined {
  if (typeof value !== 'string') return undefined;
  const trimmed = value.trim();
  return trimmed === '' ? undefined : trimmed.slice(0, MAX_TEXT);
}

/** Texts of a list, split at commas, each once. */
function words(value: unknown): readonly string[] | undefined {
  const found = new Set<string>();
  for (const entry of listOf(value)) {
    if (typeof entry !== 'string') continue;
    for (const word of entry.slice(0, MAX_TEXT).split(',')) {
      const trimmed = word.trim();
      if (trimmed !== '' && found.size < MAX_WORDS) found.add(trimmed.slice(0, MAX_WORD));
    }
  }
  return found.size === 0 ? undefined : [...found];
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? (value as readonly unknown[]).slice(0, MAX_WORDS) : [];
}

function objectOf(value: unknown): Json | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : undefined;
}

type Present<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

function withoutAbsent<T extends object>(value: T): Present<T> {
  return Object.fromEntries(Object.entries(value).filter(([, entry]) => entry !== undefined)) as Present<T>;
}
