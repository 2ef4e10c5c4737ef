/**
 * Encoding, inside the inference process: preprocess, build the session on first use, run, image by image.
 *
 * The parent sends a path, not a header: the file is looked at again here, so that a file that was replaced is never run
 * with the offsets of the old one.
 */
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { ModelFormatError, ModelNotFoundError, messageOf } from '../common/errors.js';
import { readSafetensorsHeader, stampKey } from '../formats/index.js';
import { normalize, resampleToU8, type Crop } from '../image/index.js';
import { Session, type Operation, type OperationContext } from '../runtime/index.js';
import { elementCount, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import type { OutputName } from './families/index.js';
import { buildVisionGraph, PIXEL_VALUES } from './graph.js';
import { joinBatch } from './join.js';
import { resolveVisionModel, type ResolvedModel, type VisionModel } from './model.js';
import { storedWeights, type Precision } from './weight-values.js';

/** Name under which the parent calls it. */
export const ENCODE_OPERATION = 'vision.encode';

export interface EncodeRequest {
  /** Real path of the weights. */
  readonly path: string;
  readonly precision: Precision;
  readonly outputs: readonly OutputName[];
  readonly input:
    | { readonly kind: 'images'; readonly images: F32Tensor | U8Tensor; readonly crop: Crop }
    | { readonly kind: 'pixel_values'; readonly pixelValues: F32Tensor };
}

export type EncodeReply = Readonly<Partial<Record<OutputName, F32Tensor>>>;

interface OpenModel {
  readonly resolved: ResolvedModel;
  readonly session: Session;
}

/**
 * Images per run. Measured: on CPU fp32 a batch of eight costs more per image than eight runs (design, section 3), and
 * one image at a time keeps memory flat and cancellation prompt.
 */
const MICRO_BATCH = 1;
/** Sessions kept open; the least recently used one goes first. */
const MAX_OPEN_MODELS = 3;

/** The operation, with sessions of its own. */
export function createEncodeOperation(): Operation {
  const open = new Map<string, OpenModel>();

  const acquire = async (request: EncodeRequest, context: OperationContext): Promise<OpenModel> => {
    // All hidden states are large: a graph that keeps them is a session of its own.
    const wantsAll = request.outputs.includes('all_hidden_states');
    const key = `${await currentStamp(request.path)} ${request.precision} ${wantsAll ? 'all' : ''}`;
    const known = open.get(key);
    if (known !== undefined) {
      open.delete(key);
      open.set(key, known);
      return known;
    }
    context.report({ stage: 'loading', model: request.path });
    const header = await readSafetensorsHeader(request.path);
    const resolved = resolveVisionModel(header);
    const outputs = resolved.model.outputs.filter((output) => wantsAll || output !== 'all_hidden_states');
    const { precision } = request;
    if (precision === 'int8') throw new ModelFormatError('OUTPUT_UNAVAILABLE', 'int8 is not there yet.');
    const graph = buildVisionGraph(resolved, (g) => storedWeights(g, resolved, precision), outputs);
    for (const [oldest, { session }] of open) {
      if (open.size < MAX_OPEN_MODELS) break;
      open.delete(oldest);
      await session[Symbol.asyncDispose]();
    }
    const session = await Session.create(graph, { weightsFolder: dirname(header.path) });
    const fresh = { resolved, session };
    open.set(`${stampKey(header.stamp)} ${request.precision} ${wantsAll ? 'all' : ''}`, fresh);
    return fresh;
  };

  return async (payload, context) => {
    // Both sides of the channel are this program.
    const request = payload as EncodeRequest;
    const { resolved, session } = await acquire(request, context);
    const { model } = resolved;
    for (const output of request.outputs) requireOutput(model, output);
    const count =
      request.input.kind === 'images'
        ? (request.input.images.shape[0] ?? 0)
        : (request.input.pixelValues.shape[0] ?? 0);
    const parts = new Map<OutputName, F32Tensor[]>();
    for (let first = 0; first < count; first += MICRO_BATCH) {
      await context.checkpoint();
      const feeds = feedsOf(resolved, pixelValuesOf(request, resolved, first, Math.min(count, first + MICRO_BATCH)));
      const results = await session.run(feeds, request.outputs);
      for (const output of request.outputs) {
        const part = results.get(output);
        if (part !== undefined) parts.set(output, [...(parts.get(output) ?? []), part]);
      }
      context.report({ stage: 'running', done: Math.min(count, first + MICRO_BATCH), total: count });
    }
    return Object.fromEntries(
      [...parts].map(([output, tensors]) => [output, joinBatch(tensors)]),
    ) satisfies EncodeReply;
  };
}

async function currentStamp(path: string): Promise<string> {
  try {
    const { dev, ino, size, mtimeMs } = await stat(path);
    return stampKey({ device: dev, inode: ino, sizeBytes: size, modifiedMs: mtimeMs });
  } catch (error) {
    throw new ModelNotFoundError(`The model file ${path} is gone: ${messageOf(error)}.`, {
      cause: error,
      details: { path },
    });
  }
}

function requireOutput(model: VisionModel, output: OutputName): void {
  if (model.outputs.includes(output)) return;
  throw new ModelFormatError(
    'OUTPUT_UNAVAILABLE',
    `${model.family} in ${model.path} cannot give ${output}: ${model.outputs.join(', ')} can be had. Weights that are absent from the file are never made up.`,
    { details: { output, available: model.outputs } },
  );
}

function pixelValuesOf(request: EncodeRequest, resolved: ResolvedModel, first: number, end: number): F32Tensor {
  if (request.input.kind === 'pixel_values') return sliceF32(request.input.pixelValues, first, end);
  const { images, crop } = request.input;
  const slice = images.dtype === 'F32' ? sliceF32(images, first, end) : sliceU8(images, first, end);
  return pixelsOf(resolved, slice, crop);
}

/** Pixel values f32 `[B, 3, H, W]` of images `[B, H, W, C]`, as this model takes them. */
function pixelsOf({ family, model: { config } }: ResolvedModel, images: F32Tensor | U8Tensor, crop: Crop): F32Tensor {
  const [, height = 0, width = 0] = images.shape;
  const levels = resampleToU8(images, family.resample(width, height, crop, config));
  return normalize(levels, { mean: config.imageMean, std: config.imageStd });
}

/** All inputs of a model's graph, by name. */
function feedsOf({ family, model: { config } }: ResolvedModel, pixels: F32Tensor): Record<string, F32Tensor> {
  const [, , height = 0, width = 0] = pixels.shape;
  const extra = family.extraInputs.map(({ name, value }) => [name, value(config, height, width)] as const);
  return { [PIXEL_VALUES]: pixels, ...Object.fromEntries(extra) };
}

function sliceF32({ shape, data }: F32Tensor, first: number, end: number): F32Tensor {
  const length = elementCount(shape.slice(1));
  return { dtype: 'F32', shape: [end - first, ...shape.slice(1)], data: data.subarray(first * length, end * length) };
}

function sliceU8({ shape, data }: U8Tensor, first: number, end: number): U8Tensor {
  const length = elementCount(shape.slice(1));
  return { dtype: 'U8', shape: [end - first, ...shape.slice(1)], data: data.subarray(first * length, end * length) };
}
