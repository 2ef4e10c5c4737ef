/**
 * From a header to a vision model: family, configuration, and proof that every weight is there in its shape.
 *
 * The keys decide, as in ComfyUI; a name or a size never does. Where ComfyUI's test refuses a file and the file carries
 * a configuration of its own, that one is used after every size in it was checked against the tensors.
 */
import { basename } from 'node:path';
import { ModelFormatError } from '../common/errors.js';
import { isOnnxDType } from '../onnx/index.js';
import type { ModelHeader } from '../formats/index.js';
import { readMetadataConfig, type ModelType, type VisionConfig } from './config.js';
import { FAMILIES, type OutputName, type Preset, type VisionFamily } from './families/index.js';
import { describeForeignModel } from './foreign.js';
import { nameWeights, type Layout, type WeightRange, type Weights } from './weights.js';

/** What is known of an encoder from its header; plain data, cheap to keep and to send. */
export interface VisionModel {
  /** Real path of the weights. */
  readonly path: string;
  /** Shown to people: `CLIP-ViT-H`, or `clip_vision_model (48 wide, 3 layers)` for a model with its own configuration. */
  readonly family: string;
  /** ComfyUI's name of the architecture. */
  readonly modelType: ModelType;
  readonly layout: Layout;
  readonly configuredBy: 'comfy-rule' | 'metadata';
  readonly config: VisionConfig;
  /** Outputs that can be asked for: the family has them and their weights are in the file. */
  readonly outputs: readonly OutputName[];
  /** Tokens before those of the patches: class token, registers. */
  readonly prefixTokens: number;
  /** dtypes of the weights that are used, most bytes first. */
  readonly dtypes: readonly string[];
}

/** A model together with what building its graph needs. */
export interface ResolvedModel {
  readonly model: VisionModel;
  readonly family: VisionFamily;
  readonly weights: Weights;
}

/** Width of the image embeds, or of a hidden state where the family does not project. */
export function embeddingDim(model: VisionModel): number {
  return model.config.projectionDim ?? model.config.hiddenSize;
}

/**
 * Chooses the family of a file and checks all weights that it needs.
 *
 * @throws {ModelFormatError} `VISION_FAMILY_UNKNOWN`, saying what the file seems to be instead; `TENSOR_MISSING`;
 *   `TENSOR_INVALID`.
 */
export function resolveVisionModel(header: ModelHeader): ResolvedModel {
  const weights = nameWeights(header.tensors);
  const choice = chooseByKeys(weights.ranges) ?? chooseByMetadata(header);
  const label = basename(header.path);
  if ('problem' in choice) {
    throw new ModelFormatError(
      'VISION_FAMILY_UNKNOWN',
      `${label} is not a vision encoder that ComfyUI loads: ${choice.problem}.`,
      {
        details: { path: header.path },
      },
    );
  }
  const { family, config } = choice;
  const { required, optional } = family.needs(config);
  for (const [name, shape] of required) checkWeight(weights.ranges, name, shape, label, choice.name);
  const isComplete = (output: OutputName): boolean => {
    const needs = optional.get(output);
    if (needs === undefined) return true;
    for (const [name, shape] of needs) {
      if (!weights.ranges.has(name)) return false;
      checkWeight(weights.ranges, name, shape, label, choice.name);
    }
    return true;
  };
  const model: VisionModel = {
    path: header.path,
    family: choice.name,
    modelType: family.modelType,
    layout: weights.layout,
    configuredBy: choice.configuredBy,
    config,
    outputs: family.outputs(config).filter(isComplete),
    prefixTokens: family.prefixTokens,
    dtypes: countDTypes([...required.keys()].map((name) => weights.ranges.get(name))),
  };
  return { model, family, weights };
}

interface Choice {
  readonly family: VisionFamily;
  readonly name: string;
  readonly preset?: Preset;
  readonly config: VisionConfig;
  readonly configuredBy: VisionModel['configuredBy'];
}

interface Refusal {
  readonly problem: string;
}

/** ComfyUI's own choice; undefined where it loads nothing. */
export function chooseByKeys(weights: ReadonlyMap<string, WeightRange>): Choice | Refusal | undefined {
  for (const family of FAMILIES) {
    const preset = family.choose(weights);
    if (preset === undefined) continue;
    if ('problem' in preset) return preset;
    return { family, name: preset.name, preset, config: preset.config, configuredBy: 'comfy-rule' };
  }
  return undefined;
}

function chooseByMetadata(header: ModelHeader): Choice | Refusal {
  const found = readMetadataConfig(header.metadata);
  if ('problem' in found) {
    const known = FAMILIES.flatMap((family) => family.presets.map((preset) => preset.name)).join(', ');
    return { problem: `${describeForeignModel(header.tensors)}, and ${found.problem}. Known: ${known}` };
  }
  const { modelType, config } = found;
  const family = FAMILIES.find((candidate) => candidate.modelType === modelType);
  if (family === undefined) return { problem: `no family has the model type ${modelType}` };
  const name = `${modelType} (${config.hiddenSize} wide, ${config.layers} layers)`;
  return { family, name, config, configuredBy: 'metadata' };
}

function checkWeight(
  weights: ReadonlyMap<string, WeightRange>,
  name: string,
  shape: readonly number[],
  label: string,
  family: string,
): void {
  const range = weights.get(name);
  if (range === undefined) {
    throw new ModelFormatError(
      'TENSOR_MISSING',
      `${label} is a ${family} by its keys but lacks ${name}: is it a partial or converted file?`,
      {
        details: { tensor: name, family },
      },
    );
  }
  const stored = range.isTransposed === true ? range.shape.toReversed() : range.shape;
  if (stored.length !== shape.length || stored.some((side, i) => side !== shape[i])) {
    throw new ModelFormatError(
      'TENSOR_INVALID',
      `${label} is a ${family} by its keys, but ${name} has the shape [${stored.join(', ')}] in place of [${shape.join(', ')}].`,
      { details: { tensor: name, family, shape: stored, expected: shape } },
    );
  }
  if (!isOnnxDType(range.dtype) || !['F32', 'F16', 'BF16'].includes(range.dtype)) {
    throw new ModelFormatError(
      'TENSOR_INVALID',
      `${label}: ${name} is stored as ${range.dtype}; F32, F16 and BF16 are read.`,
      {
        details: { tensor: name, dtype: range.dtype },
      },
    );
  }
}

function countDTypes(ranges: readonly (WeightRange | undefined)[]): string[] {
  const bytes = new Map<string, number>();
  for (const range of ranges) {
    if (range !== undefined) bytes.set(range.dtype, (bytes.get(range.dtype) ?? 0) + range.sizeBytes);
  }
  return [...bytes].sort((a, b) => b[1] - a[1]).map(([dtype]) => dtype);
}
