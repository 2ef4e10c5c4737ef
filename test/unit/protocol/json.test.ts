import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BridgeError } from '../../../src/common/errors.js';
import { parseJson, toPlain, writeAsciiJson, writeJson } from '../../../src/protocol/json.js';

/** What JSON.parse makes of integers beyond 2^53. */
function rounded(value: unknown): unknown {
  if (typeof value === 'bigint') return Number(value);
  if (Array.isArray(value)) return value.map(rounded);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, rounded(entry)]));
}

describe('parseJson', () => {
  it('reads what JSON.parse reads, and writes it back', () => {
    fc.assert(
      fc.property(fc.json({ noUnicodeString: false }), (text) => {
        const expected: unknown = JSON.parse(text, (_key, value: unknown) => (Object.is(value, -0) ? 0 : value));
        expect(rounded(toPlain(parseJson(text)))).toEqual(expected);
        expect(JSON.parse(writeJson(parseJson(text)))).toEqual(expected);
      }),
      { numRuns: 500 },
    );
  });

  it('refuses what JSON.parse refuses', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.json().map((text) => text.slice(1)),
          fc.json().map((text) => `${text},`),
        ),
        (text) => {
          let isJson = true;
          try {
            JSON.parse(text);
          } catch {
            isJson = false;
          }
          if (!isJson) expect(() => parseJson(text)).toThrow(BridgeError);
        },
      ),
      { numRuns: 1000 },
    );
  });

  it('keeps integers beyond 2^53, and the order of keys that look like numbers', () => {
    const text = '{"10": 18446744073709551615, "9": -9223372036854775808, "__proto__": {"x": 1}}';
    expect(writeJson(parseJson(text))).toBe(text);
  });

  it.each([
    ['{"a": 01}'],
    ['[1,]'],
    ['{"a" 1}'],
    ['"\u0001"'],
    ['NaN'],
    ['1e999'],
    ['[1] x'],
    ["'a'"],
    ['"\\x"'],
    [''],
  ])('refuses %s with a position', (text) => {
    expect(() => parseJson(text)).toThrow(/at character \d+/);
  });

  it('refuses a depth that would end the stack', () => {
    expect(() => parseJson('['.repeat(100_000))).toThrow(/levels deep/);
  });
});

describe('writeJson', () => {
  it('never writes NaN or Infinity, and leaves out what is undefined', () => {
    expect(writeJson({ a: NaN, b: -Infinity, c: undefined, d: null })).toBe('{"a": null, "b": null, "d": null}');
  });

  it('writes ASCII alone for image metadata', () => {
    expect(writeAsciiJson({ é: '日😀' })).toBe('{"\\u00e9": "\\u65e5\\ud83d\\ude00"}');
  });
});
