import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../../../src/onnx/index.js';

/** Fields of a message that are messages or texts, by number. */
function fieldsOf(bytes: Uint8Array): Map<number, Uint8Array[]> {
  const reader = new BinaryReader(bytes);
  const fields = new Map<number, Uint8Array[]>();
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (type !== WireType.LengthDelimited) reader.skip(type);
    else fields.set(field, [...(fields.get(field) ?? []), reader.bytes()]);
  }
  return fields;
}

/** Numbers of onnx.proto: the graph of a model, the nodes of a graph, the operator of a node. */
function operatorsOf(model: Uint8Array): string[] {
  const [graph = new Uint8Array()] = fieldsOf(model).get(7) ?? [];
  const nodes = fieldsOf(graph).get(1) ?? [];
  return nodes.map((node) => Buffer.from(fieldsOf(node).get(4)?.[0] ?? []).toString());
}

describe('a graph', () => {
  it('names what is made of weights alone first, whatever it is made of and wherever it was added', () => {
    const g = new GraphBuilder('order');
    const x = g.input('x', 'F32', ['rows', 4]);
    const weight = (name: string): ReturnType<GraphBuilder['cast']> =>
      g.cast(g.external(name, 'F16', [4, 4], { file: 'w', offset: 0, sizeBytes: 32 }), 'F32');
    const first = g.op('Gemm', [x, weight('a')]);
    const joined = g.op('Concat', [weight('b'), weight('c')], { axis: 0 });
    g.output('y', g.op('MatMul', [g.op('Gelu', [first]), joined]), ['rows', 8]);
    expect(operatorsOf(g.build())).toEqual(['Cast', 'Cast', 'Cast', 'Concat', 'Gemm', 'Gelu', 'MatMul', 'Identity']);
  });
});
