/** What a vision family is: how a file of it is known, which weights it has, and its forward pass as a graph. */
import type { Crop, Resampling } from '../../image/index.js';
import type { GraphBuilder, LinearWeights, Value } from '../../onnx/index.js';
import type { F32Tensor, Shape } from '../../tensor/tensor.js';
import type { ModelType, VisionConfig } from '../config.js';
import type { WeightRange } from '../weights.js';

/** A model of the family that ComfyUI has a fixed configuration for. */
export interface Preset {
  /** Shown to people: `CLIP-ViT-H`. */
  readonly name: string;
  /** The configuration file that ComfyUI would take. */
  readonly source: string;
  readonly config: VisionConfig;
}

/** Outputs, by the names that ComfyUI's CLIP_VISION_OUTPUT has. */
export type OutputName =
  'last_hidden_state' | 'penultimate_hidden_states' | 'image_embeds' | 'mm_projected' | 'all_hidden_states';

interface WeightNeeds {
  readonly required: ReadonlyMap<string, Shape>;
  /** Weights without which only this output is missing. */
  readonly optional: ReadonlyMap<OutputName, ReadonlyMap<string, Shape>>;
}

/** Hands a family's forward pass its weights as f32 values. */
export interface WeightValues {
  value(name: string): Value;
  linear(name: string, options?: { bias: boolean }): LinearWeights;
  norm(name: string): { weight: Value; bias: Value };
  /** The file stores this linear weight as `[in, out]`. */
  isTransposed(name: string): boolean;
}

/**
 * A graph under construction. Hidden states are flat, `[B·T, D]`: linear layers and norms need no more, and attention gets
 * its `[B, T, D]` by `sequence`.
 */
export interface Build {
  readonly g: GraphBuilder;
  readonly weights: WeightValues;
  readonly config: VisionConfig;
  /** I64 `[3]`: B, T, D. */
  readonly sequence: Value;
  /** Told of every layer norm's result, by the norm's name: how quantisation learns which channels are large. */
  readonly observe?: (norm: string, result: Value) => void;
}

/** A further input of the graph, beside the pixel values; a text stands for a dimension known at run time. */
interface ExtraInput {
  readonly name: string;
  readonly shape: readonly (number | string)[];
  /** Its value for pixel values of this height and width. */
  readonly value: (config: VisionConfig, height: number, width: number) => F32Tensor;
}

export interface VisionFamily {
  readonly modelType: ModelType;
  readonly presets: readonly Preset[];
  /** ComfyUI's own test of key names and shapes; `problem` where ComfyUI itself would crash. */
  choose(weights: ReadonlyMap<string, WeightRange>): Preset | { readonly problem: string } | undefined;
  /** Outputs that a model of this configuration has, its file being complete. */
  outputs(config: VisionConfig): readonly OutputName[];
  needs(config: VisionConfig): WeightNeeds;
  /** Shape of an output for a batch, the batch itself left out; `tokens` stands for a number known at run time. */
  outputShape(output: OutputName, config: VisionConfig): readonly (number | string)[];
  /** Tokens before those of the patches: class token, registers. */
  readonly prefixTokens: number;
  /** Tokens of a picture; undefined where it depends on the picture. */
  tokens(config: VisionConfig): number | undefined;
  /** Weights that ComfyUI keeps in fp32 whatever it does with the others. */
  keepsFullPrecision(name: string): boolean;
  /** How a picture becomes the one that the encoder sees; undefined where nothing is resampled. */
  resample(width: number, height: number, crop: Crop, config: VisionConfig): Resampling | undefined;
  readonly extraInputs: readonly ExtraInput[];
  /** What may be quantised. */
  quantization(config: VisionConfig): QuantizationPlan;
  /** Pixel values `[B, 3, H, W]` to the first hidden state, `[B·T, D]`. */
  embed(build: Build, pixels: Value, extra: readonly Value[]): Value;
  /** One layer. */
  layer(build: Build, x: Value, index: number): Value;
  /** Outputs from hidden states; `states` are what `embed` and then every layer gave. */
  head(build: Build, states: HiddenStates, outputs: readonly OutputName[]): ReadonlyMap<OutputName, Value>;
}

interface HiddenStates {
  readonly last: Value;
  /** Input of the last layer. */
  readonly penultimate: Value;
  /** Of every layer; present only where an output asks for all. */
  readonly all?: readonly Value[];
}

/** Linear layers that may hold int8 weights, and what feeds them. */
export interface QuantizationPlan {
  /** A norm and all linear layers that read it and nothing else: outlier channels are moved into their weights. */
  readonly afterNorm: readonly { readonly norm: string; readonly linears: readonly string[] }[];
  /** Those of them that give queries and keys. */
  readonly queriesAndKeys: readonly string[];
  /** Linear layers that read something else: the attention's result, an activation. */
  readonly others: readonly QuantizableLinear[];
}

interface QuantizableLinear {
  readonly name: string;
  /** The smallest value that its input can have, where that is close to zero. */
  readonly inputFloor?: number;
}
