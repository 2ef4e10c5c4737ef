/** Values as Python would have them: floats apart from integers, texts of what cannot be printed. */
import { describe, expect, it } from 'vitest';
import { pythonRepr, pythonStr } from '../../../src/graph/python-text.js';
import { parseJson, writeJson } from '../../../src/protocol/json.js';
import { literalOf, unwrapLiteral } from '../../../src/protocol/prompt.js';
import { node, startQueue } from '../../support/graph.js';

const exact = (text: string): ReturnType<typeof parseJson> => parseJson(text, { keepsFloats: true });

describe('floats', () => {
  it.each(['5.0', '-0.0', '100.0', '1e+20', '[1.0, 1, 0.5]', '{"a": 2.0}'])('%s is written as it was read', (text) => {
    expect(writeJson(exact(text))).toBe(text);
  });

  it('are plain numbers where nothing is kept', () => {
    expect(parseJson('[5.0, 1e2]')).toEqual([5, 100]);
  });

  it.each([
    ['5.0', '5.0'],
    ['1e16', '1e+16'],
    ['1e5', '100000.0'],
    ['5', '5'],
    ['[1.0]', '[1.0]'],
  ])('%s is shown as %s', (text, shown) => {
    expect(pythonStr(exact(text))).toBe(shown);
  });

  it('are told to an input that takes anything, and are plain numbers to all others', async () => {
    const seen: unknown[] = [];
    const see = (classType: string, type: string): ReturnType<typeof node> =>
      node({
        classType,
        isOutputNode: true,
        inputs: [{ name: 'value', type }],
        execute: ({ value }) => {
          seen.push(typeof value === 'object' ? pythonStr(value as never) : value);
          return {};
        },
      });
    const pass = node({
      classType: 'Pass',
      inputs: [{ name: 'f', type: 'FLOAT' }],
      outputs: [{ type: 'FLOAT' }],
      execute: ({ f }) => ({ outputs: [f] }),
    });
    await using started = startQueue([see('Any', '*'), see('Float', 'FLOAT'), pass]);
    const link = ['1', 0];
    await started.run({
      '1': { class_type: 'Pass', inputs: { f: '5' } },
      '2': { class_type: 'Any', inputs: { value: link } },
    });
    await started.run({
      '1': { class_type: 'Pass', inputs: { f: 5 } },
      '2': { class_type: 'Float', inputs: { value: link } },
    });
    expect(seen).toEqual(['5.0', 5]);
  });
});

describe('texts', () => {
  it('escape what cannot be printed, as Python does', () => {
    expect(pythonRepr('a\0\u007f\u00a0\u2028é😀\u{e0001}')).toBe("'a\\x00\\x7f\\xa0\\u2028é😀\\U000e0001'");
  });
});

describe('wrapped literals', () => {
  it('are unwrapped once, null too', () => {
    expect(unwrapLiteral(exact('{"__value__": null}'))).toBeNull();
    const twice = exact('{"__value__": {"__value__": 5}}');
    expect(writeJson(unwrapLiteral(twice))).toBe('{"__value__": 5}');
    expect(writeJson(literalOf(unwrapLiteral(twice)))).toBe('{"__value__": 5}');
  });
});
