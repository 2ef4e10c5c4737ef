/**
 * `ss_tag_frequency` of kohya's trainer: per data folder, how often each tag occurs.
 *
 * The tags are keys of an object, thousands of them and others in every file, which is what JSON.parse is slowest at. The
 * form that Python's json writes is read straight into maps here; anything else is left to JSON.parse.
 */

/** Counts by tag, by folder. */
export type TagFrequencies = ReadonlyMap<string, ReadonlyMap<string, number>>;

/** `"tag": 12`, and what closes or continues. Tags with escapes, and numbers that are no plain counts, do not fit. */
const ENTRY = /[ \t\n\r]*"([^"\\\p{Cc}]*)"[ \t\n\r]*:[ \t\n\r]*(0|[1-9]\d{0,14})[ \t\n\r]*([,}])/uy;
const FOLDER = /[ \t\n\r]*"([^"\\\p{Cc}]*)"[ \t\n\r]*:[ \t\n\r]*\{/uy;
const EMPTY = /[ \t\n\r]*\}/y;
const NEXT = /[ \t\n\r]*([,}])/y;
/** Keys like these come first in an object, whatever their place in the text. */
const ARRAY_INDEX = /^\d+$/;

/** Empty where there are none, or what there is cannot be read. */
export function readTagFrequencies(text: string | undefined): TagFrequencies {
  if (text?.startsWith('{') !== true) return new Map();
  return readUsual(text) ?? readAny(text);
}

/** Undefined for what is not written in the usual way, or not sound. */
function readUsual(text: string): TagFrequencies | undefined {
  const folders = new Map<string, Map<string, number>>();
  let at = 1;
  const match = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found !== null) at = pattern.lastIndex;
    return found;
  };
  let next: string | undefined = ',';
  for (; next === ','; next = match(NEXT)?.[1]) {
    const name = match(FOLDER)?.[1];
    if (name === undefined || folders.has(name) || ARRAY_INDEX.test(name)) return undefined;
    const tags = new Map<string, number>();
    let entries = 0;
    if (match(EMPTY) === null) {
      for (let more: string | undefined = ','; more === ','; entries += 1) {
        const found = match(ENTRY);
        if (found === null) return undefined;
        tags.set(found[1] ?? '', Number(found[2]));
        more = found[3];
      }
    }
    // A tag that is given twice counts once, with its last number, and JSON.parse knows how.
    if (tags.size !== entries) return undefined;
    folders.set(name, tags);
  }
  return next === '}' && /^[ \t\n\r]*$/.test(text.slice(at)) ? folders : undefined;
}

function readAny(text: string): TagFrequencies {
  const folders = new Map<string, Map<string, number>>();
  for (const [name, tags] of Object.entries(objectOf(text) ?? {})) {
    const counts = new Map<string, number>();
    if (typeof tags === 'object' && tags !== null) {
      for (const [tag, count] of Object.entries(tags))
        if (typeof count === 'number' && Number.isFinite(count)) counts.set(tag, count);
    }
    folders.set(name, counts);
  }
  return folders;
}

/** The object that a text is as JSON; undefined for anything else. */
export function objectOf(text: string | undefined): Record<string, unknown> | undefined {
  if (text?.startsWith('{') !== true) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
