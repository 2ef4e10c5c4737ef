/**
 * `extra_model_paths.yaml`: from values to folders, by ComfyUI's rules.
 *
 * ComfyUI stops at the first thing it cannot use; we report all of them, each with its place and the likely fix.
 *
 * Source: ComfyUI 0.3.64, utils/extra_config.py; checked by test/golden/paths.
 */
import { DEFAULT_FOLDERS } from './default-folders.js';
import { expandBasePath } from './expand.js';
import { makeAbsolute, type PathPlatform } from './path-rules.js';
import { readYaml } from './yaml-reader.js';
import { isTruthy, keyIdentity, type Position, type YamlMap, type YamlScalar, type YamlValue } from './yaml-values.js';

export interface PathProblem {
  /** `error`: ComfyUI would not start. `warning`: legal, but surely not meant. */
  readonly severity: 'error' | 'warning';
  readonly file: string;
  readonly message: string;
  readonly section?: string;
  readonly key?: string;
  readonly line?: number;
  readonly column?: number;
}

interface ConfiguredFolder {
  readonly name: string;
  readonly path: string;
  readonly isDefault: boolean;
  readonly line: number;
  readonly section: string;
}

/** A type whose name is not text: kept by ComfyUI, reachable by nobody. */
export interface NonStringType {
  readonly key: boolean | number | null;
  readonly keyType: string;
  readonly paths: readonly string[];
}

export interface ExtraModelPaths {
  readonly folders: readonly ConfiguredFolder[];
  readonly nonStringTypes: readonly NonStringType[];
  readonly problems: readonly PathProblem[];
}

/**
 * Reads a configuration.
 *
 * @param file Absolute path of the file; relative entries are taken from its folder.
 */
export function readExtraModelPaths(platform: PathPlatform, file: string, bytes: Uint8Array): ExtraModelPaths {
  const result = readYaml(bytes);
  if ('problem' in result) {
    const { message, at } = result.problem;
    return { folders: [], nonStringTypes: [], problems: [{ severity: 'error', file, message, ...at }] };
  }
  const reader = new Reader(platform, file);
  reader.readTop(result.value);
  return { folders: reader.folders, nonStringTypes: [...reader.nonStringTypes.values()], problems: reader.problems };
}

interface SectionContext {
  readonly name: string;
  readonly basePath: string | undefined;
  readonly isDefault: boolean;
}

class Reader {
  readonly folders: ConfiguredFolder[] = [];
  readonly nonStringTypes = new Map<string, { key: boolean | number | null; keyType: string; paths: string[] }>();
  readonly problems: PathProblem[] = [];
  readonly #platform: PathPlatform;
  readonly #file: string;
  readonly #folder: string;

  constructor(platform: PathPlatform, file: string) {
    this.#platform = platform;
    this.#file = file;
    this.#folder = platform.rules.dirname(file);
  }

  readTop(top: YamlValue): void {
    if (top.type !== 'dict') {
      if (top.type === 'list' && top.items.length === 0) return; // ComfyUI iterates over nothing
      const what = top.type === 'NoneType' ? 'the file is empty' : 'the file is no mapping of sections';
      this.#report('error', `${what}; delete it, or write a section such as "my_models:" with folders below it`, {
        at: { line: 1, column: 1 },
      });
      return;
    }
    for (const { key, value } of top.entries.values()) this.#readSection(key.text, value);
  }

  #readSection(name: string, value: YamlValue): void {
    if (value.type === 'NoneType') return;
    if (value.type !== 'dict') {
      if (!this.#isEmpty(value))
        this.#report('error', this.#sectionAdvice(name, value), { section: name, at: value.at });
      return;
    }
    const context = this.#readContext(name, value);
    if (context === undefined) return;
    for (const { key, value: entry } of value.entries.values()) this.#readEntry(context, key, entry);
  }

  /** An empty list or text has nothing to iterate over. */
  #isEmpty(value: YamlValue): boolean {
    return value.type === 'list' ? value.items.length === 0 : value.type === 'str' && value.text === '';
  }

  #sectionAdvice(name: string, value: YamlValue): string {
    if (value.type === 'list') return `the section is a list; write "type: folder" lines without dashes`;
    if (value.type === 'str' && value.text.includes('base_path'))
      return 'a blank is missing after the colon of base_path';
    return name === 'base_path' || DEFAULT_FOLDERS.some((folder) => folder.name === name)
      ? `"${name}" stands at the top level; put it below a section such as "my_models:", indented`
      : `the section is no mapping; below it go lines such as "loras: models/loras", indented`;
  }

  /** Takes base_path and is_default out of the section, as ComfyUI does: an alias of it will not see them again. */
  #readContext(name: string, section: YamlMap): SectionContext | undefined {
    const base = takeEntry(section, 'base_path');
    const flag = takeEntry(section, 'is_default');
    if (flag !== undefined && flag.type === 'str' && /^(false|no|off|0|n)$/i.test(flag.text)) {
      this.#report(
        'warning',
        `is_default: "${flag.text}" is a text, and any text counts as true; write false without quotes`,
        {
          section: name,
          key: 'is_default',
          at: flag.at,
        },
      );
    }
    const isDefault = flag !== undefined && isTruthy(flag);
    if (base === undefined) return { name, basePath: undefined, isDefault };
    if (base.type !== 'str') {
      const advice =
        base.type === 'NoneType' && base.text === '~'
          ? '; a lone ~ means "nothing" in YAML, write ~/ for the home folder'
          : '';
      this.#report('error', `base_path is ${describeType(base)}, not a text${advice}`, {
        section: name,
        key: 'base_path',
        at: base.at,
      });
      return undefined;
    }
    if (/[\n\r]|\s$/.test(base.text)) {
      this.#report(
        'warning',
        'base_path ends with a blank or a line break, which becomes part of every path; write it on the same line without "|"',
        {
          section: name,
          key: 'base_path',
          at: base.at,
        },
      );
    }
    return { name, basePath: this.#resolveBase(name, base), isDefault };
  }

  #resolveBase(section: string, base: YamlScalar): string {
    const { rules } = this.#platform;
    const expanded = expandBasePath(this.#platform, base.text);
    if (/\$\{?\w|%\w+%/.test(expanded)) {
      this.#report('warning', `base_path holds a variable that is not set: ${expanded}`, {
        section,
        key: 'base_path',
        at: base.at,
      });
    }
    return rules.isAbsolute(expanded) ? expanded : makeAbsolute(this.#platform, rules.join(this.#folder, expanded));
  }

  #readEntry(context: SectionContext, key: YamlScalar, value: YamlValue): void {
    if (value.type !== 'str') {
      const advice =
        value.type === 'list'
          ? '; several folders go on lines below "|", without dashes'
          : '; put it in quotes if it is a folder name';
      this.#report('error', `${key.text} is ${describeType(value)}, not a text${advice}`, {
        section: context.name,
        key: key.text,
        at: value.at,
      });
      return;
    }
    value.text.split('\n').forEach((line, index) => {
      if (line === '') return;
      this.#addFolder(context, key, line, value.at.line + (value.text.includes('\n') ? index + 1 : 0), value.at);
    });
  }

  #addFolder(
    { name: section, basePath, isDefault }: SectionContext,
    key: YamlScalar,
    entry: string,
    line: number,
    at: Position,
  ): void {
    const { rules } = this.#platform;
    const joined =
      basePath !== undefined
        ? rules.join(basePath, entry)
        : rules.isAbsolute(entry)
          ? entry
          : makeAbsolute(this.#platform, rules.join(this.#folder, entry));
    const path = rules.normalize(joined);
    if (key.type === 'str') {
      this.folders.push({ name: key.text, path, isDefault, line, section });
      this.#warnAboutEntry(section, key.text, entry, at);
      return;
    }
    const id = keyIdentity(key);
    const type = this.nonStringTypes.get(id) ?? { key: key.value ?? null, keyType: key.type, paths: [] };
    if (!type.paths.includes(path)) type.paths.push(path);
    this.nonStringTypes.set(id, type);
    this.#report(
      'warning',
      `the type name ${key.text} is ${describeType(key)}, which nobody can ask for; put it in quotes`,
      {
        section,
        key: key.text,
        at: key.at,
      },
    );
  }

  #warnAboutEntry(section: string, key: string, entry: string, at: Position): void {
    const warn = (message: string): void => {
      this.#report('warning', message, { section, key, at });
    };
    if (entry !== entry.trim()) warn(`the folder "${entry}" begins or ends with a blank, which is part of its name`);
    if (entry.trimStart().startsWith('#'))
      warn(`"${entry}" is taken as a folder name: inside a block there are no comments`);
    if (entry.startsWith('~') || /\$\{?\w|%\w+%/.test(entry))
      warn(`"${entry}" is taken literally: ~ and variables work in base_path only`);
    const meant = closestFolderName(key);
    if (meant !== undefined)
      warn(`"${key}" is no folder type of ComfyUI, so it lists every file; did you mean ${meant}?`);
  }

  #report(
    severity: PathProblem['severity'],
    message: string,
    { section, key, at }: { section?: string; key?: string; at?: Position },
  ): void {
    this.problems.push({
      severity,
      file: this.#file,
      message,
      ...(section === undefined ? {} : { section }),
      ...(key === undefined ? {} : { key }),
      ...at,
    });
  }
}

function takeEntry(section: YamlMap, key: string): YamlValue | undefined {
  const entry = section.entries.get(`s${key}`);
  section.entries.delete(`s${key}`);
  return entry?.value;
}

function describeType(value: YamlValue): string {
  switch (value.type) {
    case 'NoneType':
      return value.text === '' ? 'empty' : 'null';
    case 'list':
      return 'a list';
    case 'dict':
      return 'a mapping';
    case 'int':
    case 'float':
      return `the number ${value.text}`;
    case 'bool':
      return `the truth value ${value.text}`;
    case 'datetime.date':
    case 'datetime.datetime':
      return `the date ${value.text}`;
    case 'bytes':
      return 'binary data';
    case 'str':
      return 'a text';
  }
}

/** A known type that a misspelt one is surely meant to be: singular for plural, another case, one letter off. */
export function closestFolderName(name: string): string | undefined {
  const known = [...DEFAULT_FOLDERS.map((folder) => folder.name), 'unet', 'clip'];
  if (known.includes(name)) return undefined;
  const plain = (text: string): string =>
    text
      .toLowerCase()
      .replaceAll(/[^a-z]/g, '')
      .replace(/s$/, '');
  if (plain(name) === 'basepath') return 'base_path';
  return known.find((candidate) => plain(candidate) === plain(name));
}
