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

const name = fc.oneof(fc.string({ maxLength: 30 }), fc.stringMatching(/^[a-z_.]{1,40}\.weight$/));
const tensors = fc.uniqueArray(
  fc.tuple(
    name,
    fc.constantFrom(['F16', 2], ['F32', 4], ['BF16', 2], ['F8_E4M3', 1]),
    fc.array(fc.nat(20), { maxLength: 4 }),
  ),
  { maxLength: 20, selector: ([key]) => key },
);
const header = fc
  .record({
    tensors,
    metadata: fc.option(fc.dictionary(fc.string(), fc.string())),
    indent: fc.constantFrom(0, 1),
    padding: fc.nat(9),
  })
  .map(({ tensors: list, metadata, indent, padding }) => {
    let end = 0;
    const entries = list.map(([key, [dtype, bytes], shape]) => {
      const begin = end;
      end += shape.reduce((product, side) => product * side, bytes);
      return [key, { dtype, shape, data_offsets: [begin, end] }] as const;
    });
    const parts = [...(metadata === null ? [] : [['__metadata__', metadata] as const]), ...entries];
    const text = `{${parts.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value, undefined, indent)}`).join(',')}}`;
    return { json: Buffer.from(text + ' '.repeat(padding)), dataBytes: end };
  });

describe('the fast reader', () => {
  it('reads what the careful reader reads', () => {
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

  it('refuses what the careful reader refuses, in the same words', () => {
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

  it.each([
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
