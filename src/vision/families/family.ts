/** What a vision family is: how a file of it is known, which weights it has, and its forward pass as a graph. */
import type { GraphBuilder, LinearWeights, Value } from '../../onnx/index.js';
import type { Shape } from '../../tensor/tensor.js';
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

interface ForwardOptions {
  /** Outputs to build; never one whose weights are absent. */
  readonly outputs: readonly OutputName[];
}

export interface VisionFamily {
  readonly modelType: ModelType;
  readonly presets: readonly Preset[];
  /** ComfyUI's own test of key names and shapes; `problem` where ComfyUI itself would crash. */
  choose(weights: ReadonlyMap<string, WeightRange>): Preset | { readonly problem: string } | undefined;
  /** Outputs that a model of this configuration has, its file being complete. */
  outputs(config: VisionConfig): readonly OutputName[];
  needs(config: VisionConfig): WeightNeeds;
  /** Shape of an output for a batch, the batch itself left out. */
  outputShape(output: OutputName, config: VisionConfig): Shape;
  /** Weights that ComfyUI keeps in fp32 whatever it does with the others. */
  keepsFullPrecision(name: string): boolean;
  /** Adds the forward pass of pixel values `[B, 3, S, S]`. */
  forward(
    g: GraphBuilder,
    pixels: Value,
    weights: WeightValues,
    config: VisionConfig,
    options: ForwardOptions,
  ): ReadonlyMap<OutputName, Value>;
}
