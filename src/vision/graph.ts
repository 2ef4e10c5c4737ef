/**
 * A vision model as ONNX: a small graph whose initializers are ranges of a file of weights.
 *
 * The whole encoder is one graph. Quantisation needs it step by step, so that no more than one layer is in memory.
 */
import { ModelFormatError } from '../common/errors.js';
import { GraphBuilder, type GraphOptions, type Value } from '../onnx/index.js';
import type { OutputName } from './families/index.js';
import type { Build, WeightValues } from './families/family.js';
import type { ResolvedModel } from './model.js';

/** Name of the graph's main input: pixel values, f32 `[B, 3, H, W]`. */
export const PIXEL_VALUES = 'pixel_values';
/** Names of what goes from step to step: hidden states, f32 `[T, D]` of one picture. */
export const HIDDEN = 'hidden';
export const PENULTIMATE = 'penultimate';
export const NEXT_HIDDEN = 'next_hidden';

/** Hands a graph its weights. */
export type WeightSource = (g: GraphBuilder) => WeightValues;

export interface VisionGraphOptions extends GraphOptions {
  /** The layer whose result is the penultimate hidden states; default: the last but one. */
  readonly intermediate?: number;
}

/** Builds the whole encoder with these outputs, all of which the model has. */
export function buildVisionGraph(
  resolved: ResolvedModel,
  source: WeightSource,
  outputs: readonly OutputName[],
  { intermediate = resolved.model.config.layers - 2, ...options }: VisionGraphOptions = {},
): Uint8Array {
  const { model, family } = resolved;
  const { config } = model;
  const g = new GraphBuilder(model.family, options);
  const { pixels, extra } = addInputs(g, resolved);
  const batch = g.op('Shape', [pixels], { start: 0, end: 1 });
  const sequence = g.op('Concat', [batch, g.ints([family.tokens(config) ?? -1, config.hiddenSize])], { axis: 0 });
  const build: Build = { g, config, sequence, weights: source(g) };

  const states = [family.embed(build, pixels, extra)];
  for (let i = 0; i < config.layers; i += 1) states.push(family.layer(build, states[i] ?? pixels, i));
  const last = states.at(-1) ?? pixels;
  const all = outputs.includes('all_hidden_states') ? { all: states.slice(1) } : {};
  addOutputs(build, resolved, { last, penultimate: states[intermediate + 1] ?? last, ...all }, outputs);
  return g.build();
}

interface StepGraph {
  readonly graph: Uint8Array;
  readonly inputs: readonly string[];
  /** Beside its results, a layer gives the largest magnitude of every channel of its norms, by the norm's name: f32 `[D]`. */
  readonly outputs: readonly string[];
}

/** Builds one step of the encoder, for one picture: what comes before the layers, a layer, or what comes after them. */
export function buildStepGraph(
  resolved: ResolvedModel,
  source: WeightSource,
  step: 'embed' | 'head' | number,
): StepGraph {
  const { model, family } = resolved;
  const { config } = model;
  const g = new GraphBuilder(`${model.family} ${step}`);
  const sequence = g.ints([1, -1, config.hiddenSize]);
  const observed: { norm: string; largest: Value }[] = [];
  const observe = (norm: string, result: Value): void => {
    const axis = g.ints([0]);
    observed.push({ norm, largest: g.op('ReduceMax', [g.op('Abs', [result]), axis], { keepdims: 0 }) });
  };
  const build: Build = { g, config, sequence, weights: source(g), observe };
  const rows = ['rows', config.hiddenSize] as const;
  if (step === 'embed') {
    const { pixels, extra } = addInputs(g, resolved);
    g.output(NEXT_HIDDEN, family.embed(build, pixels, extra), rows);
    return {
      graph: g.build(),
      inputs: [PIXEL_VALUES, ...family.extraInputs.map(({ name }) => name)],
      outputs: [NEXT_HIDDEN],
    };
  }
  const hidden = g.input(HIDDEN, 'F32', rows);
  if (step === 'head') {
    const penultimate = g.input(PENULTIMATE, 'F32', rows);
    const outputs = model.outputs.filter((output) => output !== 'all_hidden_states' && output !== 'mm_projected');
    addOutputs(build, resolved, { last: hidden, penultimate }, outputs);
    return { graph: g.build(), inputs: [HIDDEN, PENULTIMATE], outputs };
  }
  g.output(NEXT_HIDDEN, family.layer(build, hidden, step), rows);
  for (const { norm, largest } of observed) g.output(norm, largest, [config.hiddenSize]);
  return { graph: g.build(), inputs: [HIDDEN], outputs: [NEXT_HIDDEN, ...observed.map(({ norm }) => norm)] };
}

function addInputs(g: GraphBuilder, { model, family }: ResolvedModel): { pixels: Value; extra: Value[] } {
  const { imageSize } = model.config;
  const sides = imageSize === -1 ? ['height', 'width'] : [imageSize, imageSize];
  const pixels = g.input(PIXEL_VALUES, 'F32', ['batch', 3, ...sides]);
  return { pixels, extra: family.extraInputs.map(({ name, shape }) => g.input(name, 'F32', shape)) };
}

function addOutputs(
  build: Build,
  { model, family }: ResolvedModel,
  states: Parameters<typeof family.head>[1],
  outputs: readonly OutputName[],
): void {
  const values = family.head(build, states, outputs);
  for (const output of outputs) {
    const value = values.get(output);
    if (value === undefined) throw new ModelFormatError('OUTPUT_UNAVAILABLE', `${model.family} has no ${output}.`);
    build.g.output(output, value, ['batch', ...family.outputShape(output, model.config)]);
  }
}
