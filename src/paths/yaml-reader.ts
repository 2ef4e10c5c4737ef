/**
 * A YAML document as PyYAML's safe loader would build it, with the place of every value, or the problem that stops it.
 *
 * Structure and most syntax errors come from the `yaml` package; scalars, merge keys, aliases that share one mapping and
 * the few texts that PyYAML refuses and other readers accept are handled here.
 */
import {
  Composer,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  Parser,
  type Document,
  type ParsedNode,
  type YAMLParseError,
} from 'yaml';
import { findRefusedTab } from './yaml-tabs.js';
import {
  keyIdentity,
  resolvePlain,
  type Position,
  type YamlMap,
  type YamlScalar,
  type YamlValue,
} from './yaml-values.js';

interface YamlProblem {
  readonly message: string;
  readonly at?: Position;
}

export type YamlResult = { readonly value: YamlValue } | { readonly problem: YamlProblem };

/** No configuration that people write is near this; a larger file is something else. */
export const MAX_YAML_BYTES = 1_000_000;
/** Aliases can make a small text expand without end; values are shared, but a walk over them is not. */
const MAX_NODES = 100_000;

/** Characters that PyYAML's reader refuses: "special characters are not allowed". */
const UNPRINTABLE = /[^\t\n\r\x20-\x7E\u0085\u00A0-\uD7FF\uE000-\uFFFD\u{10000}-\u{10FFFF}]/u;

class Refusal extends Error {
  readonly at: Position;
  constructor(message: string, at: Position) {
    super(message);
    this.at = at;
  }
}

/** Reads the bytes of a configuration file. */
export function readYaml(bytes: Uint8Array): YamlResult {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes);
  } catch {
    return { problem: { message: 'the file is not UTF-8; save it as UTF-8 (in Notepad: "Save as", Encoding)' } };
  }
  // Python opens the file with universal newlines.
  return readText(text.replaceAll(/\r\n?/g, '\n'));
}

function readText(text: string): YamlResult {
  const places = new Places(text);
  const odd = UNPRINTABLE.exec(text);
  if (odd !== null) {
    return {
      problem: {
        message: `the character U+${(odd[0].codePointAt(0) ?? 0).toString(16).padStart(4, '0')} is not allowed in YAML`,
      },
    };
  }
  const counter = new LineCounter();
  const composer = new Composer({
    schema: 'failsafe',
    version: '1.1',
    uniqueKeys: false,
    strict: true,
    lineCounter: counter,
  });
  const documents = [...composer.compose(new Parser(counter.addNewLine).parse(text))];
  const [document, second] = documents;
  const problem = earliest([
    syntaxProblem(document, second, text),
    tabProblem(text),
    referenceProblem(document?.contents),
  ]);
  if (problem !== undefined)
    return { problem: { message: problem.message, at: places.at(places.withProperties(problem.offset)) } };
  try {
    return { value: new Constructor(places).build(document?.contents ?? undefined) };
  } catch (refusal) {
    if (refusal instanceof Refusal) return { problem: { message: refusal.message, at: refusal.at } };
    throw refusal;
  }
}

interface OffsetProblem {
  readonly message: string;
  readonly offset: number;
}

/** PyYAML reads as a stream: of several problems it meets the first. */
function earliest(problems: readonly (OffsetProblem | undefined)[]): OffsetProblem | undefined {
  return problems.reduce(
    (first, problem) =>
      first === undefined || (problem !== undefined && problem.offset < first.offset) ? problem : first,
    undefined,
  );
}

function tabProblem(text: string): OffsetProblem | undefined {
  const offset = findRefusedTab(text);
  return offset === undefined ? undefined : { message: 'a tab stands where YAML allows blanks only', offset };
}

function syntaxProblem(
  document: Document.Parsed | undefined,
  second: Document.Parsed | undefined,
  text: string,
): OffsetProblem | undefined {
  const first = document === undefined ? undefined : firstError(document, text);
  if (first !== undefined || second === undefined) return first;
  return { message: 'a second document begins here; ComfyUI reads one', offset: documentStart(text, second) };
}

/** An alias without an anchor before it, or an anchor that is given twice. */
function referenceProblem(root: ParsedNode | null | undefined): OffsetProblem | undefined {
  const anchors = new Set<string>();
  const stack: (ParsedNode | null | undefined)[] = [root];
  for (let count = 0; stack.length > 0 && count < MAX_NODES; count += 1) {
    const node = stack.pop();
    if (node === null || node === undefined) continue;
    const offset = node.range[0];
    if (isAlias(node)) {
      if (!anchors.has(node.source)) return { message: `the alias *${node.source} has no anchor before it`, offset };
      continue;
    }
    if (node.anchor !== undefined) {
      if (anchors.has(node.anchor)) return { message: `the anchor &${node.anchor} is given twice`, offset };
      anchors.add(node.anchor);
    }
    if (isSeq(node)) stack.push(...node.items.toReversed());
    if (isMap(node)) stack.push(...node.items.toReversed().flatMap(({ key, value }) => [value, key]));
  }
  return undefined;
}

/** Offsets to lines and columns, in characters rather than UTF-16 units. */
class Places {
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  at(offset: number): Position {
    const before = this.#text.slice(0, offset);
    const lineStart = before.lastIndexOf('\n') + 1;
    return { line: before.split('\n').length, column: Array.from(before.slice(lineStart)).length + 1 };
  }

  /** Where a value begins, its tag and anchor included. */
  withProperties(offset: number): number {
    const before = this.#text.slice(this.#text.lastIndexOf('\n', offset - 1) + 1, offset);
    const properties = /(?:[!&][^\s,[\]{}]*[ \t]+)+$/.exec(before);
    return properties === null ? offset : offset - properties[0].length;
  }
}

/** The error that PyYAML would stop at, and where. */
function firstError(document: Document.Parsed, text: string): OffsetProblem | undefined {
  const { errors } = document;
  const unclosed = errors.some(({ message }) => message.startsWith('Missing closing'));
  if (!unclosed) return earliest(errors.map((error) => locate(error, text)));
  // An unfinished quotation is noticed at the end of the text; what was misread because of it does not count.
  const reachesEnd = errors.filter(({ pos }) => pos[1] >= text.length - 1).map(({ pos }) => pos[0]);
  const quotation = Math.min(...reachesEnd);
  const before = errors.filter(({ pos }) => pos[0] < quotation).map((error) => locate(error, text));
  return earliest([...before, { message: 'a quotation is not closed', offset: text.length }]);
}

function locate(
  { code, message, pos: [offset] }: Pick<YAMLParseError, 'code' | 'message' | 'pos'>,
  text: string,
): OffsetProblem {
  if (code === 'BAD_DQ_ESCAPE') {
    const advice = 'a backslash in double quotes begins an escape; put Windows paths in single quotes, or in none';
    return { message: advice, offset: offset + (/[xuU]/.test(text[offset + 1] ?? '') ? 2 : 1) };
  }
  if (code === 'BLOCK_AS_IMPLICIT_KEY') {
    const colon = text.slice(offset).search(/:(\s|$)/);
    const advice = 'a second "key: value" where a value is going on; check the indentation, or put the value in quotes';
    return { message: advice, offset: offset + Math.max(0, colon) };
  }
  if (code === 'BAD_INDENT') {
    const blanks = /^ */.exec(text.slice(offset))?.[0].length ?? 0;
    return { message: 'this line is indented otherwise than its neighbours', offset: offset + blanks };
  }
  if (/^Implicit (map )?keys need/.test(message)) {
    const next = nextToken(text, offset);
    // A deeper line goes on with the text; what looks like its key is where PyYAML stops.
    const colon = text.slice(next).search(/:(\s|$)/);
    const goesOn = code === 'MULTILINE_IMPLICIT_KEY' && colon !== -1 && indentAt(text, next) > indentAt(text, offset);
    return {
      message: 'a colon and a blank are missing after a key, or a text goes on over several lines',
      offset: goesOn ? next + colon : next,
    };
  }
  return { message: clean(message), offset };
}

function indentAt(text: string, offset: number): number {
  return /^ */.exec(text.slice(text.lastIndexOf('\n', offset - 1) + 1))?.[0].length ?? 0;
}

/** Start of the first token after the line of `offset`; the end of the text when there is none. */
function nextToken(text: string, offset: number): number {
  const lineEnd = text.indexOf('\n', offset);
  const rest = lineEnd === -1 ? '' : text.slice(lineEnd);
  const skipped = /^(?:\s|#[^\n]*)*/.exec(rest)?.[0].length ?? 0;
  return text.length - rest.length + skipped;
}

function documentStart(text: string, second: Document.Parsed): number {
  const contentStart = second.contents?.range[0] ?? text.length;
  return Math.max(text.lastIndexOf('\n---', contentStart) + 1, 0);
}

function clean(message: string): string {
  return (message.split(/ at line \d+/)[0] ?? message).replace(/:$/, '');
}

/** Builds values node by node; a node is built once, so that aliases share its value. */
class Constructor {
  readonly #places: Places;
  readonly #built = new Map<ParsedNode, YamlValue>();
  readonly #anchors = new Map<string, ParsedNode>();

  constructor(places: Places) {
    this.#places = places;
  }

  build(node: ParsedNode | undefined): YamlValue {
    if (node === undefined) return { type: 'NoneType', text: '', at: { line: 1, column: 1 } };
    const at = this.#places.at(this.#places.withProperties(node.range[0]));
    if (isAlias(node)) {
      const target = this.#anchors.get(node.source);
      const value = target === undefined ? undefined : this.#built.get(target);
      if (value === undefined) throw new Refusal(`the alias *${node.source} has no anchor before it`, at);
      return value;
    }
    if (this.#built.size > MAX_NODES) throw new Refusal(`the file has more than ${MAX_NODES} values`, at);
    if (node.anchor !== undefined) this.#anchors.set(node.anchor, node);
    if (isScalar(node)) {
      const scalar = this.#scalar(String(node.value), node.type === 'PLAIN', node.tag, at);
      this.#built.set(node, scalar);
      return scalar;
    }
    this.#checkCollectionTag(node.tag, at);
    if (isSeq(node)) {
      const list = { type: 'list' as const, items: [] as YamlValue[], at };
      this.#built.set(node, list);
      for (const item of node.items) list.items.push(this.build(item));
      return list;
    }
    const map: YamlMap = { type: 'dict', entries: new Map(), at };
    this.#built.set(node, map);
    this.#fill(map, node);
    return map;
  }

  #scalar(text: string, isPlain: boolean, tag: string | undefined, at: Position): YamlScalar {
    const name = standardTag(tag);
    if (name === undefined || name === 'str') {
      if (isPlain && name === undefined && (text === '=' || text === '<<'))
        throw new Refusal(`"${text}" alone has no meaning here; put it in quotes`, at);
      return isPlain && name === undefined ? resolvePlain(text, at) : { type: 'str', text, at };
    }
    if (name === 'binary') return { type: 'bytes', text, at };
    const resolved = resolvePlain(text, at);
    if (['null', 'bool', 'int', 'float', 'timestamp'].includes(name))
      return resolved.type === 'str' ? { ...resolved, type: 'NoneType' } : resolved;
    throw new Refusal(`the tag ${tag ?? ''} is not allowed: a configuration holds text only`, at);
  }

  #checkCollectionTag(tag: string | undefined, at: Position): void {
    const name = standardTag(tag);
    if (name !== undefined && !['map', 'seq'].includes(name)) {
      throw new Refusal(`the tag ${tag ?? ''} is not allowed: a configuration holds text only`, at);
    }
  }

  #fill(map: YamlMap, node: ParsedNode): void {
    if (!isMap(node)) return;
    const own: [YamlScalar, YamlValue][] = [];
    const merged: [YamlScalar, YamlValue][] = [];
    for (const { key, value } of node.items) {
      const isMerge = isScalar(key) && key.type === 'PLAIN' && key.value === '<<' && key.tag === undefined;
      const keyValue: YamlValue = isMerge
        ? { type: 'str', text: '<<', at: this.#places.at(key.range[0]) }
        : this.build(key);
      const valueAt = value === null ? this.#places.at(key.range[2]) : undefined;
      const built: YamlValue =
        value === null ? { type: 'NoneType', text: '', at: valueAt ?? keyValue.at } : this.build(value);
      if (keyValue.type === 'list' || keyValue.type === 'dict')
        throw new Refusal('a list or mapping cannot be a key', keyValue.at);
      if (isMerge) merged.push(...mergeEntries(built));
      else own.push([keyValue, built]);
    }
    // Merged keys come first, local keys win.
    for (const [key, value] of [...merged, ...own]) {
      const id = keyIdentity(key);
      map.entries.set(id, { key: map.entries.get(id)?.key ?? key, value });
    }
  }
}

function mergeEntries(value: YamlValue): [YamlScalar, YamlValue][] {
  const sources = value.type === 'list' ? value.items.toReversed() : [value];
  return sources.flatMap((source) => {
    if (source.type !== 'dict') throw new Refusal('"<<" merges mappings only', source.at);
    return [...source.entries.values()].map(({ key, value: entry }): [YamlScalar, YamlValue] => [key, entry]);
  });
}

/** Name of a tag of YAML's own, `?` for any other; undefined without one. */
function standardTag(tag: string | undefined): string | undefined {
  if (tag === undefined || tag === '!') return undefined;
  const standard = 'tag:yaml.org,2002:';
  const name = tag.startsWith('!!') ? tag.slice(2) : tag.startsWith(standard) ? tag.slice(standard.length) : undefined;
  return name !== undefined && /^[a-z]+$/.test(name) ? name : '?';
}
