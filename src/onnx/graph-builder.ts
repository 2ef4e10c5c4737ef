/**
 * Builds an ONNX graph value by value. Knows operators, not models.
 *
 * Values are names; every method adds nodes and returns the name of the result.
 */
import { f32Tensor, type Shape, type Tensor } from '../tensor/tensor.js';
import {
  elementType,
  writeModel,
  type Attribute,
  type ExternalData,
  type GraphValue,
  type Initializer,
  type OnnxDType,
  type OnnxNode,
} from './model-writer.js';

/** Opset 20 is the first with Gelu; com.microsoft is onnxruntime's own domain. */
const OPSETS = { '': 20, 'com.microsoft': 1 } as const;

declare const valueBrand: unique symbol;
/** Name of a value in a graph under construction. */
export type Value = string & { readonly [valueBrand]: true };

/** What the graph may use, which depends on where it will run. */
export interface GraphOptions {
  /** Attention is one node of onnxruntime's own instead of the operators that it is made of. Default true. */
  readonly fusesAttention?: boolean;
}

export class GraphBuilder {
  readonly fusesAttention: boolean;
  readonly #name: string;
  readonly #nodes: OnnxNode[] = [];
  readonly #initializers = new Map<string, Initializer>();
  readonly #inputs: GraphValue[] = [];
  readonly #outputs: GraphValue[] = [];
  readonly #values: GraphValue[] = [];
  readonly #made = new Map<string, unknown>();
  #count = 0;

  constructor(name: string, { fusesAttention = true }: GraphOptions = {}) {
    this.#name = name;
    this.fusesAttention = fusesAttention;
  }

  input(name: string, dtype: OnnxDType, shape: readonly (number | string)[]): Value {
    this.#inputs.push({ name, dtype, shape });
    return name as Value;
  }

  /** Makes a value an output of the model under a name of its own. */
  output(name: string, value: Value, shape: readonly (number | string)[], dtype: OnnxDType = 'F32'): void {
    this.#nodes.push({
      op: 'Identity',
      domain: '',
      name: `output/${name}`,
      inputs: [value],
      outputs: [name],
      attributes: {},
    });
    this.#outputs.push({ name, dtype, shape });
  }

  /** A small tensor inside the graph's own bytes. */
  constant(tensor: Tensor): Value {
    const name = this.#fresh('constant');
    this.#initializers.set(name, { name, tensor });
    return name as Value;
  }

  /** A small tensor that many nodes use; asking twice for one name gives the same value. */
  shared(name: string, tensor: Tensor): Value {
    if (!this.#initializers.has(name)) this.#initializers.set(name, { name, tensor });
    return name as Value;
  }

  scalar(value: number): Value {
    return this.shared(`scalar_${value}`, f32Tensor([], Float32Array.of(value)));
  }

  /** What `make` adds to the graph, once for all who ask under this key. */
  once<T>(key: string, make: () => T): T {
    const known = this.#made.get(key);
    if (known !== undefined) return known as T;
    const fresh = make();
    this.#made.set(key, fresh);
    return fresh;
  }

  ints(values: readonly number[]): Value {
    return this.constant({ dtype: 'I64', shape: [values.length], data: BigInt64Array.from(values, BigInt) });
  }

  /** A tensor in the file of weights; asking twice for one name gives the same value. */
  external(name: string, dtype: OnnxDType, shape: Shape, external: ExternalData): Value {
    if (!this.#initializers.has(name)) this.#initializers.set(name, { name, dtype, shape, external });
    return name as Value;
  }

  /** Any operator with one result. */
  op(
    op: string,
    inputs: readonly (Value | '')[],
    attributes: Readonly<Record<string, Attribute>> = {},
    domain: '' | 'com.microsoft' = '',
  ): Value {
    const name = this.#fresh(op);
    this.#nodes.push({ op, domain, name, inputs, outputs: [name], attributes });
    return name as Value;
  }

  /** An operator with several results. */
  opMany(
    op: string,
    inputs: readonly Value[],
    count: number,
    attributes: Readonly<Record<string, Attribute>> = {},
  ): Value[] {
    const name = this.#fresh(op);
    const outputs = Array.from({ length: count }, (_none, i) => `${name}/${i}` as Value);
    this.#nodes.push({ op, domain: '', name, inputs, outputs, attributes });
    return outputs;
  }

  cast(value: Value, to: OnnxDType): Value {
    return this.op('Cast', [value], { to: elementType(to) });
  }

  reshape(value: Value, shape: readonly number[]): Value {
    return this.op('Reshape', [value, this.ints(shape)]);
  }

  /**
   * Says which shape a value has, where onnxruntime cannot infer it: values of one shape can follow each other in the same
   * memory, and a session of a large graph is planned in a third of the time.
   */
  declare(value: Value, shape: readonly (number | string)[], dtype: OnnxDType = 'F32'): Value {
    this.#values.push({ name: value, dtype, shape });
    return value;
  }

  /** Elements `[begin, end)` of one axis. */
  slice(value: Value, axis: number, begin: number, end: number): Value {
    return this.op('Slice', [value, this.ints([begin]), this.ints([end]), this.ints([axis])]);
  }

  build(): Uint8Array {
    return writeModel({
      name: this.#name,
      nodes: this.#inOrder(),
      initializers: [...this.#initializers.values()],
      inputs: this.#inputs,
      outputs: this.#outputs,
      values: this.#values,
      opsets: OPSETS,
    });
  }

  /**
   * What is made of weights alone comes first. onnxruntime visits nodes from the last one back, and of what a node needs
   * the later one in this list before the earlier one: so weights are made right before they are used, and not all of
   * them before the first layer.
   *
   * Source: onnxruntime, graph_viewer.cc, GraphViewer, ReverseDFSFrom with NodeCompare.
   */
  #inOrder(): readonly OnnxNode[] {
    const constants = new Set<string>(this.#initializers.keys());
    const [ofWeights, others]: [OnnxNode[], OnnxNode[]] = [[], []];
    for (const node of this.#nodes) {
      if (!node.inputs.every((input) => input === '' || constants.has(input))) {
        others.push(node);
        continue;
      }
      ofWeights.push(node);
      for (const output of node.outputs) constants.add(output);
    }
    return [...ofWeights, ...others];
  }

  #fresh(prefix: string): string {
    this.#count += 1;
    return `${prefix}_${this.#count}`;
  }
}
