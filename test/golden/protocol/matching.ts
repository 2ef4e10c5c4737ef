/**
 * Compares what the server gave with a recording, whose volatile values are placeholders.
 *
 * `<uuid:n>` and `<rand:n>` stand for one value each, bound when they first appear; other placeholders for anything.
 * Lists without a defined order are compared as sets. Source: the README of the recordings, "Normalisation".
 */

/** Keys whose lists have no defined order. */
const UNORDERED = new Set(['executed', 'current_outputs', 'dependent_outputs', 'errors']);
/** Keys whose content is not significant. */
const IGNORED = new Set(['traceback']);
const PLACEHOLDER = /<(uuid|rand):(\d+)>|<[a-z_ -]+>/g;

export class Matcher {
  readonly #bound = new Map<string, string>();

  /** A text of the recording with all bound values put in. */
  fill(text: string): string {
    return text.replaceAll(/<(?:uuid|rand):\d+>/g, (placeholder) => this.#bound.get(placeholder) ?? placeholder);
  }

  /** Why the two differ, with the place; undefined when they agree. */
  compare(expected: unknown, actual: unknown, at = ''): string | undefined {
    if (typeof expected === 'string') return this.#compareText(expected, actual, at);
    if (Array.isArray(expected)) return this.#compareList(expected, actual, at);
    if (typeof expected === 'object' && expected !== null)
      return this.#compareObject(expected as Record<string, unknown>, actual, at);
    return Object.is(expected, actual) ? undefined : differ(expected, actual, at);
  }

  #compareText(expected: string, actual: unknown, at: string): string | undefined {
    if (/^<(time|bytes|int|log text|text|tensor-repr|traceback-line|etag)>$/.test(expected)) return undefined;
    if (typeof actual !== 'string') return differ(expected, actual, at);
    const names: string[] = [];
    let pattern = '';
    let end = 0;
    for (const match of expected.matchAll(PLACEHOLDER)) {
      const [placeholder, kind] = match;
      pattern += escape(expected.slice(end, match.index));
      end = match.index + placeholder.length;
      const bound = this.#bound.get(placeholder);
      if (bound !== undefined) pattern += escape(bound);
      else if (kind === undefined) pattern += '.*';
      else {
        names.push(placeholder);
        pattern += kind === 'uuid' ? '([0-9a-f-]{32,36})' : '([a-z]{5})';
      }
    }
    const found = new RegExp(`^${pattern}${escape(expected.slice(end))}$`, 's').exec(actual);
    if (found === null) return differ(this.fill(expected), actual, at);
    names.forEach((name, i) => this.#bound.set(name, found[i + 1] ?? ''));
    return undefined;
  }

  #compareList(expected: readonly unknown[], actual: unknown, at: string): string | undefined {
    const key = /\.(\w+)$/.exec(at)?.[1] ?? '';
    if (IGNORED.has(key)) return undefined;
    if (!Array.isArray(actual)) return differ(expected, actual, at);
    const isQueueItem = expected.length === 5 && typeof expected[0] === 'number' && Array.isArray(expected[4]);
    if (UNORDERED.has(key)) return this.#compareSet(expected, actual, at);
    if (actual.length !== expected.length) return differ(expected, actual, at);
    for (const [i, entry] of expected.entries()) {
      const problem =
        isQueueItem && i === 4
          ? this.#compareSet(entry as unknown[], actual[i], `${at}[4]`)
          : this.compare(entry, actual[i], `${at}[${i}]`);
      if (problem !== undefined) return problem;
    }
    return undefined;
  }

  #compareSet(expected: readonly unknown[], actual: unknown, at: string): string | undefined {
    if (!Array.isArray(actual) || actual.length !== expected.length) return differ(expected, actual, at);
    const left = [...(actual as unknown[])];
    for (const entry of expected) {
      const index = left.findIndex(
        (candidate) => this.compare(entry, candidate, at.replace(/\.\w+$/, '[]')) === undefined,
      );
      if (index === -1) return differ(entry, left, at);
      left.splice(index, 1);
    }
    return undefined;
  }

  #compareObject(expected: Record<string, unknown>, actual: unknown, at: string): string | undefined {
    if (typeof actual !== 'object' || actual === null || Array.isArray(actual)) return differ(expected, actual, at);
    const got = actual as Record<string, unknown>;
    const known = new Set<string>();
    for (const [name, value] of Object.entries(expected)) {
      const key = this.fill(name);
      const unbound = /^<uuid:\d+>$/.test(key) ? Object.keys(got).find((candidate) => !known.has(candidate)) : key;
      if (unbound === undefined || !Object.hasOwn(got, unbound)) return differ(expected, actual, `${at}.${key}`);
      if (unbound !== key) this.#bound.set(name, unbound);
      known.add(unbound);
      const problem = this.compare(value, got[unbound], `${at}.${unbound}`);
      if (problem !== undefined) return problem;
    }
    const extra = Object.keys(got).find((key) => !known.has(key));
    return extra === undefined ? undefined : `${at}.${extra} is not in the recording`;
  }
}

function escape(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

function differ(expected: unknown, actual: unknown, at: string): string {
  const show = (value: unknown): string => (value === undefined ? 'nothing' : JSON.stringify(value).slice(0, 300));
  return `${at}: recorded ${show(expected)}, got ${show(actual)}`;
}
