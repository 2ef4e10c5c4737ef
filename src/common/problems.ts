/** What is wrong with values that a user gave, in words for people. */
import { distance } from 'fastest-levenshtein';
import type * as z from 'zod';

/** Names that differ in more letters than this share of theirs are others. */
const MAX_TYPING_ERRORS = 0.34;

/**
 * The problems that zod found, each with the name of its value.
 *
 * @param nameOf What users call the value at a path.
 */
export function problemsOf(error: z.ZodError, nameOf = (path: readonly PropertyKey[]) => path.join('.')): string[] {
  return error.issues.map((issue) => {
    const name = nameOf(issue.path);
    if (issue.code === 'unrecognized_keys') return `${[name, issue.keys.join(', ')].join(' ').trim()} is not known`;
    return name === '' ? wordsOf(issue) : `${name}: ${wordsOf(issue)}`;
  });
}

function wordsOf(issue: z.core.$ZodIssue): string {
  if (issue.code === 'invalid_value') return `one of ${issue.values.map(String).join(', ')} is wanted`;
  const received = /^Invalid input: expected (\w+), received (\w+)$/.exec(issue.message);
  if (received === null) return issue.message;
  const [, expected = '', found = ''] = received;
  if (found === 'undefined') return `it is missing (${articled(expected)})`;
  return `${articled(expected)} is wanted${found === 'NaN' ? '' : `, not ${articled(found)}`}`;
}

function articled(type: string): string {
  const name = { int: 'whole number', record: 'object', array: 'list', string: 'text' }[type] ?? type;
  return name === 'null' ? name : `${/^[aeiou]/.test(name) ? 'an' : 'a'} ${name}`;
}

/** The names that somebody may have meant, nearest first. */
export function nearNames(wanted: string, names: readonly string[], count = 1): string[] {
  const plain = wanted.toLowerCase();
  return names
    .map((name) => ({ name, errors: distance(plain, name.toLowerCase()) }))
    .filter(({ errors }) => errors <= Math.max(1, plain.length * MAX_TYPING_ERRORS))
    .sort((a, b) => a.errors - b.errors)
    .slice(0, count)
    .map(({ name }) => name);
}
