/**
 * Makes the int8 form of an encoder, and measures it, inside a process of its own.
 *
 * One layer is in memory at a time. First the probe pictures go through the exact layers: what the norms give tells which
 * channels are outliers, what comes out is what the int8 form is measured against. Then every layer's weights are evened
 * out, rounded and written. Last, the finished model runs over the same pictures. A scheme that misses the bar gives way
 * to the next finer one; when none reaches it, the model is refused with the figures.
 */
import { rename, rm } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { cancelledError } from '../../common/abort.js';
import { BridgeError } from '../../common/errors.js';
import { readModelHeader, readSafetensorsHeader, SafetensorsWriter, type TensorPlan } from '../../formats/index.js';
import { normalize, resampleToU8 } from '../../image/index.js';
import { nextMessages, Session, singleOperation, type Operation, type OperationCall } from '../../runtime/index.js';
import { f32Tensor, type F32Tensor } from '../../tensor/tensor.js';
import type { OutputName } from '../families/index.js';
import { buildStepGraph, buildVisionGraph, HIDDEN, NEXT_HIDDEN, PENULTIMATE, PIXEL_VALUES } from '../graph.js';
import { resolveVisionModel, type ResolvedModel } from '../model.js';
import { QUANTIZED, quantizedWeights, storedWeights } from '../weight-values.js';
import { probePictures } from './probes.js';
import { describeQuantized, METADATA_BYTES, REQUIRED_COSINE, type QuantizedFile } from './quantized-file.js';
import { readF32, readStored } from './read-weight.js';
import {
  channelReach,
  findOutliers,
  quantizeMatrix,
  scaleColumns,
  SCHEMES,
  smoothingFactors,
  takeColumns,
  type Matrix,
  type Scheme,
} from './scheme.js';

export const QUANTIZE_OPERATION = 'vision.quantize';

export interface QuantizeRequest {
  /** Real path of the weights. */
  readonly path: string;
  /** Where the int8 form goes; its folder exists. */
  readonly target: string;
  /** Hash of the weights, kept beside them. */
  readonly sha256: string;
}

export type QuantizeReply = QuantizedFile;

/** Side of the probe pictures before they are resampled. */
const PROBE_SIDE = 384;

export function createQuantizeOperation(): Operation {
  return singleOperation(quantize);
}

async function quantize(call: OperationCall): Promise<QuantizeReply> {
  const request = call.payload as QuantizeRequest;
  const resolved = resolveVisionModel(await readModelHeader(request.path));
  const steps = new Steps(call, resolved.model.config.layers);
  const exact = await runExact(resolved, steps);
  const figures: [Scheme, number][] = [];
  for (const scheme of SCHEMES) {
    const partial = `${request.target}.${process.pid}.partial`;
    try {
      await using writer = await writeQuantized(resolved, scheme, exact.reach, partial, steps);
      const cosine = await measure(resolved, partial, exact);
      figures.push([scheme, cosine]);
      if (cosine < REQUIRED_COSINE) continue;
      const made: QuantizedFile = { scheme, cosine, sha256: request.sha256 };
      await writer.writeMetadata(describeQuantized(made));
      await writer.flush();
      await rename(partial, request.target);
      return made;
    } finally {
      await rm(partial, { force: true });
    }
  }
  const text = figures.map(([scheme, cosine]) => `${scheme} reaches ${cosine.toFixed(5)}`).join(', ');
  throw new BridgeError(
    'QUANTIZATION_REFUSED',
    `${basename(request.path)} cannot be run in int8: on probe pictures, the cosine to exact arithmetic must be ${REQUIRED_COSINE} or more for every token; ${text}. Use the precision comfy.`,
    { details: { path: request.path, figures: Object.fromEntries(figures), required: REQUIRED_COSINE } },
  );
}

/** Progress in layers, and the place where a cancellation is noticed. */
class Steps {
  readonly #call: OperationCall;
  readonly #layers: number;
  #done = 0;

  constructor(call: OperationCall, layers: number) {
    this.#call = call;
    this.#layers = layers;
  }

  async next(): Promise<void> {
    this.#done += 1;
    // Exact layers, then layers written; a second scheme writes them again.
    const total = this.#layers * Math.max(2, Math.ceil(this.#done / this.#layers));
    this.#call.report({ stage: 'quantizing', done: this.#done, total });
    await nextMessages();
    if (this.#call.signal.aborted) throw cancelledError();
  }
}

/** Inputs of a graph by name. */
type Feed = ReadonlyMap<string, F32Tensor>;

interface Exact {
  /** Feeds of every probe picture. */
  readonly feeds: readonly Feed[];
  readonly outputs: readonly ReadonlyMap<string, F32Tensor>[];
  /** Largest magnitude of every channel of a norm's result, by the norm's name. */
  readonly reach: ReadonlyMap<string, Float32Array>;
}

async function runExact(resolved: ResolvedModel, steps: Steps): Promise<Exact> {
  const { family, model } = resolved;
  const { config } = model;
  const feeds = probePictures(PROBE_SIDE).map((picture): Feed => {
    const levels = resampleToU8(picture, family.resample(PROBE_SIDE, PROBE_SIDE, 'center', config));
    const [, height = 0, width = 0] = levels.shape;
    const extra = family.extraInputs.map(({ name, value }) => [name, value(config, height, width)] as const);
    const pixels = normalize(levels, { mean: config.imageMean, std: config.imageStd });
    return new Map([[PIXEL_VALUES, pixels], ...extra]);
  });
  let states = (await runStep(resolved, 'embed', feeds)).map((results) => take(results, NEXT_HIDDEN));
  let penultimate = states;
  const reach = new Map<string, Float32Array>();
  for (let layer = 0; layer < config.layers; layer += 1) {
    penultimate = states;
    const results = await runStep(
      resolved,
      layer,
      states.map((state) => new Map([[HIDDEN, state]])),
    );
    states = results.map((result) => take(result, NEXT_HIDDEN));
    for (const result of results) {
      for (const [norm, { data }] of result) {
        if (norm !== NEXT_HIDDEN) reach.set(norm, largerOf(reach.get(norm), data));
      }
    }
    await steps.next();
  }
  const outputs = await runStep(
    resolved,
    'head',
    states.map(
      (state, i) =>
        new Map([
          [HIDDEN, state],
          [PENULTIMATE, penultimate[i] ?? state],
        ]),
    ),
  );
  return { feeds, outputs, reach };
}

async function runStep(
  resolved: ResolvedModel,
  step: 'embed' | 'head' | number,
  feeds: readonly Feed[],
): Promise<Map<string, F32Tensor>[]> {
  const { graph, outputs, inputs } = buildStepGraph(resolved, (g) => storedWeights(g, resolved, 'fp32'), step);
  await using session = await Session.create(graph, { weightsFolder: resolved.model.folder });
  const results: Map<string, F32Tensor>[] = [];
  for (const feed of feeds) {
    results.push(await session.run(Object.fromEntries(inputs.map((name) => [name, take(feed, name)])), outputs));
  }
  return results;
}

function take(values: ReadonlyMap<string, F32Tensor>, name: string): F32Tensor {
  const value = values.get(name);
  if (value === undefined) throw new BridgeError('INTERNAL', `a step of the model lacks ${name}`);
  return value;
}

function largerOf(known: Float32Array | undefined, fresh: Float32Array): Float32Array {
  return known === undefined ? fresh : known.map((value, j) => Math.max(value, fresh[j] ?? 0));
}

/** A linear layer that is to be rounded. */
interface Planned {
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly hasBias: boolean;
  /** Gives queries or keys. */
  readonly steersAttention: boolean;
  readonly inputFloor?: number;
}

interface Group {
  readonly linears: readonly Planned[];
  /** What is known of the norm that feeds them. */
  readonly norm?: { readonly name: string; readonly reach: Float32Array; readonly outliers: readonly number[] };
}

async function writeQuantized(
  resolved: ResolvedModel,
  scheme: Scheme,
  observed: Exact['reach'],
  path: string,
  steps: Steps,
): Promise<SafetensorsWriter> {
  const groups = await planGroups(resolved, observed);
  const tensors = new Map<string, TensorPlan>();
  for (const group of groups) planGroup(group, scheme, tensors);
  const kept = [...keptWeights(resolved)].filter((name) => !tensors.has(name));
  for (const name of kept) {
    const { dtype, shape } = await readStored(resolved, name);
    tensors.set(name, { dtype, shape });
  }
  const writer = await SafetensorsWriter.create(path, tensors, METADATA_BYTES);
  try {
    for (const name of kept) await writer.write(name, await readStored(resolved, name));
    const perStep = groups.length / resolved.model.config.layers;
    for (const [i, group] of groups.entries()) {
      await writeGroup(resolved, group, scheme, writer);
      if (Math.floor((i + 1) / perStep) > Math.floor(i / perStep)) await steps.next();
    }
    return writer;
  } catch (error) {
    await writer[Symbol.asyncDispose]();
    throw error;
  }
}

/** All weights of the outputs that the model has. */
function keptWeights({ family, model, weights }: ResolvedModel): ReadonlySet<string> {
  const { required, optional } = family.needs(model.config);
  const wanted = [...optional]
    .filter(([output]) => model.outputs.includes(output))
    .flatMap(([, needs]) => [...needs.keys()]);
  return new Set([...required.keys(), ...wanted].filter((name) => weights.ranges.has(name)));
}

async function planGroups(resolved: ResolvedModel, observed: Exact['reach']): Promise<Group[]> {
  const { family, model } = resolved;
  const { required } = family.needs(model.config);
  const { afterNorm, queriesAndKeys, others } = family.quantization(model.config);
  const steering = new Set(queriesAndKeys);
  const planned = (name: string, inputFloor?: number): Planned => {
    const [rows = 0, columns = 0] = required.get(`${name}.weight`) ?? [];
    const hasBias = required.has(`${name}.bias`);
    const steersAttention = steering.has(name);
    return { name, rows, columns, hasBias, steersAttention, ...(inputFloor === undefined ? {} : { inputFloor }) };
  };
  const groups: Group[] = [];
  for (const { norm, linears } of afterNorm) {
    const [gain, bias] = [await readF32(resolved, `${norm}.weight`), await readF32(resolved, `${norm}.bias`)];
    const reach = channelReach(gain, bias, observed.get(norm) ?? new Float32Array(gain.length));
    groups.push({
      linears: linears.map((name) => planned(name)),
      norm: { name: norm, reach, outliers: findOutliers(reach) },
    });
  }
  for (const { name, inputFloor } of others) groups.push({ linears: [planned(name, inputFloor)] });
  return groups;
}

/** Whether weights and inputs of this layer are two numbers of 8 bits each. */
function hasLow({ steersAttention }: Planned, scheme: Scheme): boolean {
  return scheme === 'int8x2' || (scheme === 'int8-qk' && steersAttention);
}

/** A shifted input has all 256 levels on one side; the two-term scheme needs no such thing. */
function floorOf(linear: Planned, scheme: Scheme): number | undefined {
  return hasLow(linear, scheme) ? undefined : linear.inputFloor;
}

function planGroup({ linears, norm }: Group, scheme: Scheme, tensors: Map<string, TensorPlan>): void {
  if (norm !== undefined) {
    const shape = [norm.reach.length];
    for (const part of ['weight', 'bias']) tensors.set(`${norm.name}.${part}`, { dtype: 'F32', shape });
  }
  for (const linear of linears) {
    const { name, rows, columns } = linear;
    tensors.set(`${name}.weight`, { dtype: 'I8', shape: [columns, rows] });
    tensors.set(QUANTIZED.scale(name), { dtype: 'F32', shape: [rows] });
    if (hasLow(linear, scheme)) tensors.set(QUANTIZED.low(name), { dtype: 'I8', shape: [columns, rows] });
    if (linear.hasBias || floorOf(linear, scheme) !== undefined)
      tensors.set(`${name}.bias`, { dtype: 'F32', shape: [rows] });
    const outliers = norm?.outliers.length ?? 0;
    if (outliers === 0) continue;
    tensors.set(QUANTIZED.outlierIndex(name), { dtype: 'I64', shape: [outliers] });
    tensors.set(QUANTIZED.outlierWeight(name), { dtype: 'F32', shape: [outliers, rows] });
  }
}

async function writeGroup(
  resolved: ResolvedModel,
  { linears, norm }: Group,
  scheme: Scheme,
  writer: SafetensorsWriter,
): Promise<void> {
  const matrices: (Planned & Matrix)[] = [];
  for (const linear of linears) {
    matrices.push({ ...linear, data: await readF32(resolved, `${linear.name}.weight`) });
  }
  if (norm !== undefined) {
    const factors = smoothingFactors(norm.reach, matrices, norm.outliers);
    for (const part of ['weight', 'bias']) {
      const values = await readF32(resolved, `${norm.name}.${part}`);
      const divided = values.map((value, j) => value / (factors[j] ?? 1));
      await writer.write(`${norm.name}.${part}`, f32Tensor([divided.length], divided));
    }
    for (const matrix of matrices) scaleColumns(matrix, factors);
  }
  const outliers = norm?.outliers ?? [];
  for (const matrix of matrices) {
    const { name, rows, columns } = matrix;
    if (outliers.length > 0) {
      const index = BigInt64Array.from(outliers, BigInt);
      await writer.write(QUANTIZED.outlierIndex(name), { dtype: 'I64', shape: [index.length], data: index });
      const taken = takeColumns(matrix, outliers);
      await writer.write(QUANTIZED.outlierWeight(name), f32Tensor([outliers.length, rows], taken));
    }
    const { levels, scale, low, sums } = quantizeMatrix(matrix, { hasLow: hasLow(matrix, scheme) });
    const shape = [columns, rows];
    await writer.write(`${name}.weight`, { dtype: 'I8', shape, data: levels });
    if (low !== undefined) await writer.write(QUANTIZED.low(name), { dtype: 'I8', shape, data: low });
    await writer.write(QUANTIZED.scale(name), f32Tensor([rows], scale));
    const floor = floorOf(matrix, scheme);
    if (!matrix.hasBias && floor === undefined) continue;
    const bias = matrix.hasBias ? await readF32(resolved, `${name}.bias`) : new Float32Array(rows);
    // x = (x - floor) + floor: the second part of the product does not depend on the picture.
    const whole = floor === undefined ? bias : bias.map((value, row) => value + floor * (sums[row] ?? 0));
    await writer.write(`${name}.bias`, f32Tensor([rows], whole));
  }
}

/** Smallest cosine between int8 and exact, over pictures, outputs and tokens. */
async function measure(resolved: ResolvedModel, path: string, exact: Exact): Promise<number> {
  const header = await readSafetensorsHeader(path);
  const names = [...(exact.outputs[0]?.keys() ?? [])] as OutputName[];
  const graph = buildVisionGraph(resolved, (g) => quantizedWeights(g, resolved, header), names);
  await using session = await Session.create(graph, { weightsFolder: dirname(header.path), isInt8: true });
  let smallest = 1;
  for (const [i, feed] of exact.feeds.entries()) {
    const results = await session.run(Object.fromEntries(feed), names);
    for (const name of names) {
      const [mine, theirs] = [results.get(name), exact.outputs[i]?.get(name)];
      if (mine === undefined || theirs === undefined) throw new BridgeError('INTERNAL', `int8 gave no ${name}`);
      smallest = Math.min(smallest, smallestCosine(mine, theirs));
    }
  }
  return smallest;
}

/** Over the last axis. A result that is no number at all counts as opposite. */
function smallestCosine(a: F32Tensor, b: F32Tensor): number {
  const width = a.shape.at(-1) ?? 1;
  let smallest = 1;
  for (let begin = 0; begin < a.data.length; begin += width) {
    let product = 0;
    let [lengthA, lengthB] = [0, 0];
    for (let j = begin; j < begin + width; j += 1) {
      const [x, y] = [a.data[j] ?? 0, b.data[j] ?? 0];
      product += x * y;
      lengthA += x * x;
      lengthB += y * y;
    }
    const cosine = lengthA === 0 && lengthB === 0 ? 1 : product / Math.sqrt(lengthA * lengthB);
    smallest = Math.min(smallest, Number.isNaN(cosine) ? -1 : cosine);
  }
  return smallest;
}
