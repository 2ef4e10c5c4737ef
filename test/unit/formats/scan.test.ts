/** The fast reader of headers agrees with the careful one, on good headers and on broken ones. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HeaderScanner, type TensorTable } from '../../../src/formats/index.js';
import { parseHeader } from '../../../src/formats/safetensors/header.js';

interface Entry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly offset: number;
  readonly sizeBytes: number;
}

const describeTable = (table: TensorTable): Record<string, Entry> =>
  Object.fromEntries(
    Array.from({ length: table.count }, (_none, i) => [
      table.name(i),
      {
        dtype: table.dtype(i),
        shape: table.shape(i),
        offset: table.columns.offsets[i] ?? -1,
        sizeBytes: table.columns.sizes[i] ?? -1,
      },
    ]),
  );

/** What each reader makes of a header: its tensors and metadata, or that it refuses. */
function fast(scanner: HeaderScanner<Record<string, Entry>>, json: Buffer, dataBytes: number): unknown {
  try {
    const { digest, metadata } = scanner.read(json, 8 + json.length, 8 + json.length + dataBytes, 'x');
    return { tensors: digest, metadata: Object.fromEntries(metadata) };
  } catch (error) {
    return (error as Error).message;
  }
}

function careful(json: Buffer, dataBytes: number): unknown {
  try {
    const { tensors, metadata } = parseHeader(json, 8 + json.length, 8 + json.length + dataBytes, 'x');
    const entries = [...tensors].map(([name, { dtype, shape, offset, sizeBytes }]) => [
      name,
      { dtype, shape, offset: offset - 8 - json.length, sizeBytes },
    ]);
    return { tensors: Object.fromEntries(entries) as unknown, metadata: Object.fromEntries(metadata) };
  } catch (error) {
    return (error as Error).message;
  }
}

// Few enough that names come again, in this order or another.
const name = fc.oneof(
  fc.string({ maxLength: 30 }),
  fc.stringMatching(/^[a-z_.]{1,40}\.weight$/),
  fc.nat(12).map((i) => `lora_unet_blocks_${i}_attn.lora_down.weight`),
  fc.constantFrom('a', 'ab', 'abc', 'abcd', 'abcde', '__metadata__', '__proto__', 'constructor'),
);
const tensors = fc.uniqueArray(
  fc.tuple(
    name,
    fc.constantFrom(['F16', 2], ['F32', 4], ['BF16', 2], ['F8_E4M3', 1]),
    fc.array(fc.nat(20), { maxLength: 4 }),
  ),
  { maxLength: 20, selector: ([key]) => key },
);
/** JSON as libraries write it: compact, as Python's json does, or over several lines. */
const write = (value: unknown, style: 'compact' | 'spaced' | 'lines'): string =>
  style === 'lines'
    ? JSON.stringify(value, undefined, 1)
    : style === 'compact'
      ? JSON.stringify(value)
      : JSON.stringify(value, undefined, 1)
          .replace(/\n */g, ' ')
          .replace(/([[{]) | (?=[\]}])/g, '$1');
const header = fc
  .record({
    tensors,
    metadata: fc.option(fc.dictionary(fc.string(), fc.string())),
    metadataAt: fc.nat(20),
    style: fc.constantFrom('compact', 'spaced', 'lines'),
    isShuffled: fc.boolean(),
    isSorted: fc.boolean(),
    padding: fc.nat(9),
  })
  .map(({ tensors: list, metadata, metadataAt, style, isShuffled, isSorted, padding }) => {
    let end = 0;
    const entries: [string, unknown][] = list.map(([key, [dtype, bytes], shape]) => {
      const begin = end;
      end += shape.reduce((product, side) => product * side, bytes);
      const fields = { dtype, shape, data_offsets: [begin, end] };
      return [key, isSorted ? { data_offsets: fields.data_offsets, dtype, shape } : fields];
    });
    if (isShuffled) entries.sort(([a], [b]) => (a < b ? -1 : 1));
    if (metadata !== null) entries.splice(metadataAt % 3 === 0 ? metadataAt : 0, 0, ['__metadata__', metadata]);
    const [comma, colon] = style === 'compact' ? [',', ':'] : [', ', ': '];
    const parts = entries.map(([key, value]) => `${JSON.stringify(key)}${colon}${write(value, style)}`);
    return { json: Buffer.from(`{${parts.join(comma)}}${' '.repeat(padding)}`), dataBytes: end };
  });

/** A header of many tensors, long enough that nearly all of it is read the fast way. */
const longHeader = (
  names: readonly string[],
  rank: (index: number) => number,
  dtype = 'F16',
): { readonly json: Buffer; readonly dataBytes: number } => {
  let end = 0;
  const entries = names.map((key, i) => {
    const [begin, shape] = [end, [rank(i), 64]];
    end += rank(i) * 64 * 2;
    return [key, { dtype, shape, data_offsets: [begin, end] }];
  });
  return { json: Buffer.from(JSON.stringify(Object.fromEntries(entries))), dataBytes: end };
};
const numbered = (count: number, stem: string): string[] =>
  Array.from({ length: count }, (_none, i) => `${stem}_${i}.lora_down.weight`);

describe('the fast reader', () => {
  it('reads what the careful reader reads', { timeout: 120_000 }, () => {
    const scanner = new HeaderScanner(describeTable);
    fc.assert(
      fc.property(header, ({ json, dataBytes }) => {
        // Three times: the third comes from memory.
        for (let i = 0; i < 3; i += 1)
          expect(fast(scanner, Buffer.from(json), dataBytes)).toEqual(careful(json, dataBytes));
      }),
      { numRuns: 2000 },
    );
  });

  it('refuses what the careful reader refuses, in the same words', { timeout: 120_000 }, () => {
    const scanner = new HeaderScanner(describeTable);
    fc.assert(
      fc.property(
        header,
        fc.nat(),
        fc.nat(255),
        fc.integer({ min: -2, max: 2 }),
        ({ json, dataBytes }, at, byte, more) => {
          const broken = Buffer.from(json);
          broken[at % broken.length] = byte;
          expect(fast(scanner, Buffer.from(broken), dataBytes + more)).toEqual(careful(broken, dataBytes + more));
        },
      ),
      { numRuns: 5000 },
    );
  });

  it('reads names that it knows from other tables, in another order, with another dtype or with one missing', () => {
    const scanner = new HeaderScanner(describeTable);
    const names = numbered(60, 'block');
    fc.assert(
      fc.property(
        fc.shuffledSubarray(names, { minLength: 40 }),
        fc.array(fc.integer({ min: 1, max: 128 }), { minLength: 60, maxLength: 60 }),
        fc.boolean(),
        fc.constantFrom('F16', 'BF16', 'I16'),
        (some, ranks, isInOrder, dtype) => {
          const chosen = isInOrder ? names.filter((key) => some.includes(key)) : some;
          const { json, dataBytes } = longHeader(chosen, (i) => ranks[i] ?? 1, dtype);
          expect(fast(scanner, Buffer.from(json), dataBytes)).toEqual(careful(json, dataBytes));
        },
      ),
      { numRuns: 300 },
    );
  });

  it('refuses a changed byte anywhere in a table whose names it knows, in the same words', () => {
    const scanner = new HeaderScanner(describeTable);
    const names = numbered(60, 'block');
    for (let i = 1; i < 5; i += 1) {
      const { json, dataBytes } = longHeader(names, (at) => 1 + ((at * i) % 7));
      expect(fast(scanner, json, dataBytes)).toEqual(careful(json, dataBytes));
    }
    const { json, dataBytes } = longHeader(names, (at) => 1 + (at % 9));
    fc.assert(
      fc.property(fc.nat(json.length - 1), fc.nat(255), fc.boolean(), (at, byte, isCut) => {
        const broken = Buffer.from(json);
        broken[at] = byte;
        // What lies behind the header is that of another file, as in a buffer that is used again.
        const seen = isCut ? broken.subarray(0, at) : broken;
        expect(fast(scanner, seen, dataBytes)).toEqual(careful(Buffer.from(seen), dataBytes));
      }),
      { numRuns: 3000 },
    );
  });

  it('refuses names that occur twice where both are known', () => {
    const scanner = new HeaderScanner(describeTable);
    const names = numbered(60, 'block');
    const { json, dataBytes } = longHeader(names, () => 2);
    for (let i = 0; i < 3; i += 1) fast(scanner, Buffer.from(json), dataBytes);
    const twice = Buffer.from(json.toString().replace('block_7.', 'block_6.'));
    expect(fast(scanner, Buffer.from(twice), dataBytes)).toEqual(careful(twice, dataBytes));
  });

  it('forgets names when they are many, and goes on', () => {
    const scanner = new HeaderScanner(describeTable);
    for (let i = 0; i < 16; i += 1) {
      const { json, dataBytes } = longHeader(numbered(1500, `file${i % 13}`), (at) => 1 + ((at + i) % 5));
      expect(fast(scanner, Buffer.from(json), dataBytes)).toEqual(careful(json, dataBytes));
    }
  });

  it.each([
    '{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"__metadata__":{"b":"c"}}',
    '{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"__metadata__":{"b":1}}',
    '{"__metadata__":{"b":"c"},"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"__metadata__":{"b":"d"}}',
    '{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"__metadata__":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}}',
    '{"a":{"dtype":"F16","shape":[1],"data_offsets":[2,4]},"b":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}',
    '{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}',
    '{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,0]}}',
    '{"a":{"dtype":"F16","shape":[1000000000000000],"data_offsets":[0,2000000000000000]}}',
    '{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},}',
    '{"__metadata__":{},}',
    '{"__metadata__":{}"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}',
    '{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"a":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}}',
    '{"a":{"dtype":"F16","shape":[01],"data_offsets":[0,2]}}',
    '{"a":{"dtype":"F16","shape":[1,],"data_offsets":[0,2]}}',
    '{"a":{"dtype":"F16","shape":[1],"shape":[1],"data_offsets":[0,2]}}',
    '{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2],"more":1}}',
    '{"a\\u0062":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}',
    '{"a\tb":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}',
    '{}',
    '{} {}',
    '[]',
  ])('treats %s as the careful reader does', (text) => {
    for (const dataBytes of [0, 2, 4]) {
      const json = Buffer.from(text);
      expect(fast(new HeaderScanner(describeTable), json, dataBytes)).toEqual(careful(json, dataBytes));
    }
  });
});
