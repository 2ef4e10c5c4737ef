/**
 * The ONNX file format, as far as a graph with external weights needs it.
 *
 * Field numbers are those of onnx.proto (ONNX IR version 10). Initializers may point into another file by name, offset
 * and length; that is how a safetensors file becomes a model without being copied.
 */
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { tensorBytes, type DType, type Shape, type Tensor } from '../tensor/tensor.js';

const IR_VERSION = 10;

/** ONNX's numbers of element types. */
const ELEMENT_TYPES = { F32: 1, U8: 2, I8: 3, I32: 6, I64: 7, F16: 10, BF16: 16, F8_E4M3: 17, F8_E5M2: 19 } as const;

export type OnnxDType = keyof typeof ELEMENT_TYPES;

export function isOnnxDType(dtype: string): dtype is OnnxDType {
  return Object.hasOwn(ELEMENT_TYPES, dtype);
}

/** Number of an element type, as the attribute `to` of Cast takes it. */
export function elementType(dtype: OnnxDType): number {
  return ELEMENT_TYPES[dtype];
}

/** A number is an int, `{ float }` a float: JavaScript cannot tell 1 from 1.0. */
export type Attribute = number | string | readonly number[] | { readonly float: number };

export interface OnnxNode {
  readonly op: string;
  /** Empty for standard operators, `com.microsoft` for onnxruntime's own. */
  readonly domain: string;
  readonly name: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Readonly<Record<string, Attribute>>;
}

/** Bytes of a tensor in another file; `file` is a base name in the session's folder of weights. */
export interface ExternalData {
  readonly file: string;
  readonly offset: number;
  readonly sizeBytes: number;
}

export type Initializer =
  | { readonly name: string; readonly tensor: Tensor }
  | { readonly name: string; readonly dtype: OnnxDType; readonly shape: Shape; readonly external: ExternalData };

export interface GraphValue {
  readonly name: string;
  readonly dtype: OnnxDType;
  /** A text stands for a dimension that is known only at run time. */
  readonly shape: readonly (number | string)[];
}

export interface OnnxGraph {
  readonly name: string;
  readonly nodes: readonly OnnxNode[];
  readonly initializers: readonly Initializer[];
  readonly inputs: readonly GraphValue[];
  readonly outputs: readonly GraphValue[];
  /** Shapes of values in between, where they are known and cannot be inferred. */
  readonly values: readonly GraphValue[];
  readonly opsets: Readonly<Record<string, number>>;
}

/** Serializes a ModelProto. */
export function writeModel(graph: OnnxGraph): Uint8Array {
  const writer = new BinaryWriter();
  writer.tag(1, WireType.Varint).int64(IR_VERSION);
  writer.tag(2, WireType.LengthDelimited).string('vision-bridge');
  message(writer, 7, (w) => {
    writeGraph(w, graph);
  });
  for (const [domain, version] of Object.entries(graph.opsets)) {
    message(writer, 8, (w) => w.tag(1, WireType.LengthDelimited).string(domain).tag(2, WireType.Varint).int64(version));
  }
  return writer.finish();
}

function message(writer: BinaryWriter, field: number, write: (writer: BinaryWriter) => void): void {
  writer.tag(field, WireType.LengthDelimited).fork();
  write(writer);
  writer.join();
}

function text(writer: BinaryWriter, field: number, value: string): void {
  writer.tag(field, WireType.LengthDelimited).string(value);
}

function writeGraph(writer: BinaryWriter, graph: OnnxGraph): void {
  for (const node of graph.nodes) {
    message(writer, 1, (w) => {
      writeNode(w, node);
    });
  }
  text(writer, 2, graph.name);
  for (const initializer of graph.initializers) {
    message(writer, 5, (w) => {
      writeInitializer(w, initializer);
    });
  }
  for (const [field, values] of [
    [11, graph.inputs],
    [12, graph.outputs],
    [13, graph.values],
  ] as const) {
    for (const value of values) {
      message(writer, field, (w) => {
        writeValue(w, value);
      });
    }
  }
}

function writeNode(writer: BinaryWriter, node: OnnxNode): void {
  for (const input of node.inputs) text(writer, 1, input);
  for (const output of node.outputs) text(writer, 2, output);
  text(writer, 3, node.name);
  text(writer, 4, node.op);
  for (const [name, value] of Object.entries(node.attributes)) {
    message(writer, 5, (w) => {
      writeAttribute(w, name, value);
    });
  }
  if (node.domain !== '') text(writer, 7, node.domain);
}

function writeAttribute(writer: BinaryWriter, name: string, value: Attribute): void {
  text(writer, 1, name);
  const type = (code: number): void => {
    writer.tag(20, WireType.Varint).int32(code);
  };
  if (typeof value === 'number') {
    writer.tag(3, WireType.Varint).int64(value);
    type(2);
  } else if (typeof value === 'string') {
    writer.tag(4, WireType.LengthDelimited).bytes(new TextEncoder().encode(value));
    type(3);
  } else if ('float' in value) {
    writer.tag(2, WireType.Bit32).float(value.float);
    type(1);
  } else {
    for (const entry of value) writer.tag(8, WireType.Varint).int64(entry);
    type(7);
  }
}

function writeInitializer(writer: BinaryWriter, initializer: Initializer): void {
  const { dtype, shape } = 'tensor' in initializer ? initializer.tensor : initializer;
  for (const side of shape) writer.tag(1, WireType.Varint).int64(side);
  writer.tag(2, WireType.Varint).int32(elementType(requireOnnx(dtype)));
  text(writer, 8, initializer.name);
  if ('tensor' in initializer) {
    writer.tag(9, WireType.LengthDelimited).bytes(tensorBytes(initializer.tensor));
    return;
  }
  const { file, offset, sizeBytes } = initializer.external;
  for (const [key, value] of [
    ['location', file],
    ['offset', String(offset)],
    ['length', String(sizeBytes)],
  ] as const) {
    message(writer, 13, (w) => {
      text(w, 1, key);
      text(w, 2, value);
    });
  }
  writer.tag(14, WireType.Varint).int32(1);
}

function requireOnnx(dtype: DType): OnnxDType {
  if (!isOnnxDType(dtype)) throw new RangeError(`ONNX initializers of dtype ${dtype} are not written`);
  return dtype;
}

function writeValue(writer: BinaryWriter, value: GraphValue): void {
  text(writer, 1, value.name);
  message(writer, 2, (type) => {
    message(type, 1, (tensor) => {
      tensor.tag(1, WireType.Varint).int32(elementType(value.dtype));
      message(tensor, 2, (shape) => {
        for (const side of value.shape) {
          message(shape, 1, (dimension) => {
            if (typeof side === 'number') dimension.tag(1, WireType.Varint).int64(side);
            else text(dimension, 2, side);
          });
        }
      });
    });
  });
}
