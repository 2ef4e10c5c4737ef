/** Tag counts are what JSON.parse makes of them, whichever way they are read. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readTagFrequencies } from '../../../../src/registry/classify/tag-frequencies.js';

const plain = (text: string): unknown =>
  [...readTagFrequencies(text)].map(([folder, tags]) => [folder, Object.fromEntries(tags)]);

function reference(text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return [];
  }
  return Object.entries(value as Record<string, unknown>).map(([folder, tags]) => [
    folder,
    Object.fromEntries(Object.entries(tags ?? {}).filter(([, count]) => Number.isFinite(count))),
  ]);
}

const tag = fc.oneof(fc.string({ maxLength: 8 }), fc.constantFrom('1girl', 'é', '12', ' a ', 'a"b'));
const frequencies = fc.dictionary(
  tag,
  fc.dictionary(tag, fc.oneof(fc.nat(), fc.double(), fc.constant('x'), fc.constant(1e15)), { maxKeys: 6 }),
  { maxKeys: 4 },
);

describe('tag frequencies', () => {
  it('are those that JSON.parse reads', () => {
    fc.assert(
      fc.property(frequencies, fc.constantFrom(0, 1), (value, indent) => {
        const text = JSON.stringify(value, undefined, indent);
        expect(plain(text)).toEqual(reference(text));
      }),
      { numRuns: 300 },
    );
  });

  it('are none where a changed letter makes the text unsound', () => {
    fc.assert(
      fc.property(
        frequencies,
        fc.nat(),
        fc.constantFrom('{', '}', '[', ']', '"', ',', ':', '0', ' ', '-', '\u00a0', '\\', '\n'),
        (value, at, letter) => {
          const text = JSON.stringify(value);
          const place = 1 + (at % text.length);
          const broken = text.slice(0, place) + letter + text.slice(place + 1);
          expect(plain(broken)).toEqual(reference(broken));
        },
      ),
      { numRuns: 1000 },
    );
  });

  it.each([
    ['{"f": {"a": 1, "a": 2}}', [['f', { a: 2 }]]],
    ['{"f": {"a": 1}, "f": {"b": 2}}', [['f', { b: 2 }]]],
    ['{"f": {"a": 01}}', []],
    ['{"f": {"a": 1},}', []],
    ['', []],
    ['None', []],
  ])('of %s are %j', (text, expected) => {
    expect(plain(text)).toEqual(expected);
  });
});
