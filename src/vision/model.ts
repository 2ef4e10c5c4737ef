/**
 * From a header to a vision model: family, configuration, and proof that every weight is there in its shape.
 *
 * The keys decide, as in ComfyUI; a name or a size never does. Where ComfyUI's test refuses a file and the file carries
 * a configuration of its own, that one is used after every size in it was checked against the tensors.
 */
import { basename, join } from 'node:path';
import { ModelFormatError } from '../common/errors.js';
import { stampKey, type ModelHeader, type TensorInfo } from '../formats/index.js';
import { elementCount } from '../tensor/tensor.js';
import { readMetadataConfig, type ModelType, type VisionConfig } from './config.js';
import { FAMILIES, type OutputName, type Preset, type VisionFamily } from './families/index.js';
import { describeForeignModel } from './foreign.js';
import { nameWeights, type Layout, type WeightRange, type Weights } from './weights.js';

/** What is known of an encoder from its header; plain data, cheap to keep and to send. */
export interface VisionModel {
  /** Real path of the weights; of those in several files, of their index. */
  readonly path: string;
  /** Real path of the folder in which all weights lie. */
  readonly folder: string;
  /** Shown to people: `CLIP-ViT-H`, or `clip_vision_model (48 wide, 3 layers)` for a model with its own configuration. */
  readonly family: string;
  /** ComfyUI's name of the architecture. */
  readonly modelType: ModelType;
  readonly layout: Layout;
  /** Present where the encoder is part of a checkpoint: what its keys begin with. */
  readonly prefix?: string;
  readonly configuredBy: 'comfy-rule' | 'metadata';
  readonly config: VisionConfig;
  /** Outputs that can be asked for: the family has them and their weights are in the file. */
  readonly outputs: readonly OutputName[];
  /** Tokens before those of the patches: class token, registers. */
  readonly prefixTokens: number;
  /** dtypes of the weights that are used, most bytes first. */
  readonly dtypes: readonly string[];
  /** Weights of the encoder, as numbers of any dtype. */
  readonly parameters: number;
  /** Real paths of all files that hold weights, the one that was opened first. */
  readonly files: readonly string[];
  /** Differs when a file is replaced or written. */
  readonly stamp: string;
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
  const check = (name: string, shape: readonly number[]): void => {
    const range = weights.ranges.get(name);
    if (range === undefined) throw missingWeight(header, name, choice.name);
    checkWeight(range, name, shape, label, choice.name);
    checkFloat8(header, name, range);
  };
  for (const [name, shape] of required) check(name, shape);
  const isComplete = (output: OutputName): boolean => {
    const needs = optional.get(output);
    if (needs === undefined) return true;
    for (const [name, shape] of needs) {
      if (!weights.ranges.has(name)) return false;
      check(name, shape);
    }
    return true;
  };
  const model: VisionModel = {
    path: header.path,
    folder: header.folder,
    family: choice.name,
    modelType: family.modelType,
    layout: weights.layout,
    ...(weights.prefix === undefined ? {} : { prefix: weights.prefix }),
    configuredBy: choice.configuredBy,
    config,
    outputs: family.outputs(config).filter(isComplete),
    prefixTokens: family.prefixTokens,
    dtypes: countDTypes([...required.keys()].map((name) => weights.ranges.get(name))),
    parameters: [...required.values()].reduce((sum, shape) => sum + elementCount(shape), 0),
    files: [...new Set([header.path, ...[...header.tensors.values()].map((info) => fileOf(header, info))])],
    stamp: stampKey(header.stamp),
  };
  return { model, family, weights };
}

/** The family of a model that was opened. */
export function familyOf({ modelType }: VisionModel): VisionFamily {
  const family = FAMILIES.find((candidate) => candidate.modelType === modelType);
  if (family === undefined) throw new RangeError(`no family has the model type ${modelType}`);
  return family;
}

function fileOf({ path, folder }: ModelHeader, { file }: TensorInfo): string {
  return file === undefined ? path : join(folder, file);
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

function missingWeight({ path, strided }: ModelHeader, name: string, family: string): ModelFormatError {
  const [view] = strided.keys();
  if (view !== undefined) {
    return new ModelFormatError(
      'TENSOR_INVALID',
      `${basename(path)} is a ${family} by its keys, but ${view} is a transposed or cut view, which cannot be used where it lies: make its tensors contiguous() in PyTorch and save it again.`,
      { details: { tensor: view, missing: name, family } },
    );
  }
  return new ModelFormatError(
    'TENSOR_MISSING',
    `${basename(path)} is a ${family} by its keys but lacks ${name}: is it a partial or converted file?`,
    { details: { tensor: name, family } },
  );
}

/** Scaled fp8 files hold the factors of their weights beside them; ComfyUI's encoders do not apply any. */
const SCALES = ['scale_weight', 'weight_scale', 'weight_scale_inv', 'weight_scale_2'] as const;

function checkFloat8({ path, tensors }: ModelHeader, name: string, { dtype }: WeightRange): void {
  if (!dtype.startsWith('F8_')) return;
  const stem = name.replace(/\.weight$/, '');
  const own = SCALES.map((scale) => `${stem}.${scale}`).find((scale) => tensors.has(scale));
  const scale = own ?? [...tensors.keys()].find((key) => /(^|\.)scaled_fp8$|\.scale_weight$|\.weight_scale/.test(key));
  if (scale === undefined) return;
  throw new ModelFormatError(
    'TENSOR_INVALID',
    `${basename(path)} is scaled fp8 (it has ${scale}): its weights are wrong without their factors, which ComfyUI's vision encoders do not apply. Use a file of plain fp8, fp16 or bf16 weights.`,
    { details: { tensor: name, scale } },
  );
}

/** dtypes of weights that are computed with. */
const WEIGHT_DTYPES = ['F32', 'F16', 'BF16', 'F8_E4M3', 'F8_E5M2'] as const;

function checkWeight(range: WeightRange, name: string, shape: readonly number[], label: string, family: string): void {
  const stored = range.isTransposed === true ? range.shape.toReversed() : range.shape;
  if (stored.length !== shape.length || stored.some((side, i) => side !== shape[i])) {
    throw new ModelFormatError(
      'TENSOR_INVALID',
      `${label} is a ${family} by its keys, but ${name} has the shape [${stored.join(', ')}] in place of [${shape.join(', ')}].`,
      { details: { tensor: name, family, shape: stored, expected: shape } },
    );
  }
  if (!WEIGHT_DTYPES.some((dtype) => dtype === range.dtype)) {
    throw new ModelFormatError(
      'TENSOR_INVALID',
      `${label}: ${name} is stored as ${range.dtype}; ${WEIGHT_DTYPES.join(', ')} are read.`,
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
