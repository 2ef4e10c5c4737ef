/**
 * What the packs in the user's custom_nodes folders bring for front ends: translations and example workflows.
 *
 * Only files are read; nothing of a pack runs here. Everything is bounded, and a broken file counts as absent.
 *
 * Source: comfyui-protocol, "/i18n", "/workflow_templates".
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { isJsonObject, parseJson, type JsonObject, type JsonValue } from '../protocol/json.js';

const TEMPLATE_FOLDERS = ['example_workflows', 'example', 'examples', 'workflow', 'workflows'];
const LOCALE_PARTS = ['nodeDefs', 'commands', 'settings'];
const MAX_PACKS = 2000;
const MAX_LOCALE_BYTES = 16 * 1024 * 1024;

/** Pack to names of its templates, in the order in which they are found. */
export async function workflowTemplates(roots: readonly string[]): Promise<Map<string, string[]>> {
  const templates = new Map<string, string[]>();
  for (const pack of await packsOf(roots)) {
    for (const folder of TEMPLATE_FOLDERS) {
      const names = (await namesIn(join(pack, folder))).filter((name) => name.endsWith('.json'));
      if (names.length === 0) continue;
      const known = templates.get(basename(pack)) ?? [];
      templates.set(basename(pack), [...known, ...names.map((name) => name.slice(0, -'.json'.length))]);
    }
  }
  return templates;
}

/** Folders in which the files of a pack's templates may be. */
export async function templateFolders(roots: readonly string[], pack: string): Promise<string[]> {
  const folders = (await packsOf(roots)).filter((folder) => basename(folder) === pack);
  return folders.flatMap((folder) => TEMPLATE_FOLDERS.map((name) => join(folder, name)));
}

/** Language to texts: main.json of every pack merged, and the other files under their own keys. */
export async function translations(roots: readonly string[]): Promise<Map<string, JsonObject>> {
  const languages = new Map<string, JsonObject>();
  for (const pack of await packsOf(roots)) {
    for (const language of await namesIn(join(pack, 'locales'))) {
      const folder = join(pack, 'locales', language);
      const texts = new Map(await readObject(join(folder, 'main.json')));
      for (const part of LOCALE_PARTS) {
        const content = await readObject(join(folder, `${part}.json`));
        if (content.size > 0) texts.set(part, content);
      }
      if (texts.size > 0) languages.set(language, merge(languages.get(language) ?? new Map(), texts));
    }
  }
  return languages;
}

async function packsOf(roots: readonly string[]): Promise<string[]> {
  const packs: string[] = [];
  for (const root of roots) packs.push(...(await namesIn(root)).map((name) => join(root, name)));
  return packs.slice(0, MAX_PACKS);
}

async function namesIn(folder: string): Promise<string[]> {
  const names = await readdir(folder).catch(() => []); // absent, or a file
  return names.filter((name) => !name.startsWith('.')).sort();
}

async function readObject(path: string): Promise<JsonObject> {
  try {
    const stats = await stat(path);
    if (!stats.isFile() || stats.size > MAX_LOCALE_BYTES) return new Map();
    const value = parseJson(await readFile(path, 'utf8'));
    return isJsonObject(value) ? value : new Map();
  } catch {
    return new Map();
  }
}

function merge(base: JsonObject, added: JsonObject): JsonObject {
  const merged = new Map<string, JsonValue>(base);
  for (const [key, value] of added) {
    const before = merged.get(key);
    if (isJsonObject(before) && isJsonObject(value)) merged.set(key, merge(before, value));
    else if (Array.isArray(before) && Array.isArray(value))
      merged.set(key, [...(before as readonly JsonValue[]), ...(value as readonly JsonValue[])]);
    else merged.set(key, value);
  }
  return merged;
}
