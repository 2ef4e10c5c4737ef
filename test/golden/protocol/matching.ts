/**
 * Compares what the server gave with a recording, whose volatile values are placeholders.
 *
 * `<uuid:n>` and `<rand:n>` stand for one value each, bound when they first appear; `<comfy>` and `<port>` for values that
 * are known; other placeholders for anything. Lists without a defined order are compared as sets.
 * Source: the README of the recordings, "Normalisation".
 */
import { dirname } from 'node:path';

/** Keys whose lists have no defined order. */
const UNORDERED = new Set(['executed', 'current_outputs', 'dependent_outputs', 'errors', 'nodes']);
/** Keys whose content is not significant. */
const IGNORED = new Set(['traceback']);
/** Objects whose order of keys has a meaning. */
const ORDERED = /\.(input|required|optional|hidden)$/;
const PLACEHOLDER = /<(uuid|rand):(\d+)>|<[a-z_ -]+>/g;
const ANYTHING =
  /^<(time|bytes|int|log text|text|tensor-repr|traceback-line|etag|python_version|pytorch_version|argv|python)>$/;

/** Where a value of the recording differs from the server's. */
export interface Mismatch {
  /** `status`, `body.node_errors.1`, `[3].data.output` */
  readonly field: string;
  readonly expected: unknown;
  readonly actual: unknown;
}

/** Whether a mismatch is intended: it is then passed over. */
export type Excuse = (mismatch: Mismatch) => boolean;

export class Matcher {
  readonly #bound = new Map<string, string>();

  /** @param base The server's base folder. */
  constructor(base: string) {
    this.#bound.set('<comfy>', base);
  }

  bind(placeholder: string, value: string): void {
    this.#bound.set(placeholder, value);
  }

  /** A text of the recording with all bound values put in. */
  fill(text: string): string {
    return text
      .replaceAll('<comfy>/..', dirname(this.#bound.get('<comfy>') ?? ''))
      .replaceAll(/<(?:(?:uuid|rand):\d+|comfy|port)>/g, (placeholder) => this.#bound.get(placeholder) ?? placeholder);
  }

  /** All differences that are not excused. */
  compare(expected: unknown, actual: unknown, field: string, excuse: Excuse = () => false): Mismatch[] {
    const found = this.#differences(expected, actual, field, excuse);
    return found.length > 0 && excuse({ field, expected, actual }) ? [] : found;
  }

  #differences(expected: unknown, actual: unknown, field: string, excuse: Excuse): Mismatch[] {
    if (typeof expected === 'string')
      return this.#textMatches(expected, actual, field) ? [] : [{ field, expected: this.fill(expected), actual }];
    if (Array.isArray(expected)) return this.#compareList(expected, actual, field, excuse);
    if (typeof expected === 'object' && expected !== null)
      return this.#compareObject(expected as Record<string, unknown>, actual, field, excuse);
    return Object.is(expected, actual) ? [] : [{ field, expected, actual }];
  }

  #textMatches(expected: string, actual: unknown, field: string): boolean {
    if (ANYTHING.test(expected)) return true;
    if (typeof actual !== 'string') return false;
    // Lines of several errors come in any order.
    if (field.endsWith('.details') && expected.includes('\n'))
      return sortedLines(this.fill(expected)) === sortedLines(actual);
    const filled = this.fill(expected);
    const names: string[] = [];
    let pattern = '';
    let end = 0;
    for (const match of filled.matchAll(PLACEHOLDER)) {
      const [placeholder, kind] = match;
      pattern += escape(filled.slice(end, match.index));
      end = match.index + placeholder.length;
      if (kind === undefined) pattern += '.*';
      else {
        names.push(placeholder);
        pattern += kind === 'uuid' ? '([0-9a-f-]{32,36})' : '([a-z]{5})';
      }
    }
    const found = new RegExp(`^${pattern}${escape(filled.slice(end))}$`, 's').exec(actual);
    if (found === null) return false;
    names.forEach((name, i) => this.#bound.set(name, found[i + 1] ?? ''));
    return true;
  }

  #compareList(expected: readonly unknown[], actual: unknown, field: string, excuse: Excuse): Mismatch[] {
    const key = /\.(\w+)$/.exec(field)?.[1] ?? '';
    if (IGNORED.has(key)) return [];
    if (expected.length === 1 && expected[0] === '<argv>') return [];
    if (!Array.isArray(actual)) return [{ field, expected, actual }];
    if (UNORDERED.has(key)) return this.#compareSet(expected, actual, field);
    if (actual.length !== expected.length) return [{ field, expected, actual }];
    const isQueueItem = expected.length === 5 && typeof expected[0] === 'number' && Array.isArray(expected[4]);
    return expected.flatMap((entry, i) =>
      isQueueItem && i === 4
        ? this.#compareSet(entry as unknown[], actual[i], `${field}[4]`)
        : this.compare(entry, actual[i], `${field}[${i}]`, excuse),
    );
  }

  #compareSet(expected: readonly unknown[], actual: unknown, field: string): Mismatch[] {
    if (!Array.isArray(actual) || actual.length !== expected.length) return [{ field, expected, actual }];
    const left = [...(actual as unknown[])];
    for (const entry of expected) {
      const index = left.findIndex((candidate) => this.compare(entry, candidate, `${field}[]`).length === 0);
      if (index === -1) return [{ field, expected: entry, actual: left }];
      left.splice(index, 1);
    }
    return [];
  }

  #compareObject(
    expected: Readonly<Record<string, unknown>>,
    actual: unknown,
    field: string,
    excuse: Excuse,
  ): Mismatch[] {
    if (typeof actual !== 'object' || actual === null || Array.isArray(actual)) return [{ field, expected, actual }];
    const got = actual as Readonly<Record<string, unknown>>;
    const known = new Set<string>();
    const found: Mismatch[] = [];
    for (const [name, value] of Object.entries(expected)) {
      const filled = this.fill(name);
      const isUnbound = /^<uuid:\d+>$/.test(filled);
      const key = isUnbound ? (Object.keys(got).find((candidate) => !known.has(candidate)) ?? filled) : filled;
      if (isUnbound && key !== filled) this.#bound.set(name, key);
      known.add(key);
      found.push(...this.compare(value, Object.hasOwn(got, key) ? got[key] : undefined, `${field}.${name}`, excuse));
    }
    for (const key of Object.keys(got)) {
      if (known.has(key)) continue;
      const extra = { field: `${field}.${key}`, expected: undefined, actual: got[key] };
      if (!excuse(extra)) found.push(extra);
    }
    if (found.length === 0 && ORDERED.test(field) && Object.keys(got).join() !== [...known].join())
      return [{ field, expected: [...known], actual: Object.keys(got) }];
    return found;
  }
}

function sortedLines(text: string): string {
  return text.split('\n').sort().join('\n');
}

function escape(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
