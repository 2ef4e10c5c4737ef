/** Which vision encoder an adapter was trained with: told by widths and sizes, never by names. */
import { BridgeError, ModelFormatError, ModelNotFoundError } from '../common/errors.js';
import type { VisionEngine, VisionModel } from '../vision/index.js';
import { describeEncoderNeed } from './engine.js';
import type { IPAdapterModel } from './model.js';

/** A file that may be what is looked for. */
export interface ModelCandidate {
  /** As a workflow names it. */
  readonly name: string;
  readonly path: string;
}

/** Files of one kind, and where they were looked for. */
export interface ModelSource {
  /** Folders, for messages. */
  places(): readonly string[];
  list(): Promise<readonly ModelCandidate[]>;
  /** @throws {ModelNotFoundError} */
  resolve(name: string): Promise<string>;
}

/** Why an encoder does not fit an adapter, as a clause; undefined where it fits. */
export function encoderProblem(adapter: IPAdapterModel, encoder: VisionModel): string | undefined {
  const need = adapter.encoder;
  if (need === undefined) return 'the adapter takes faces only';
  const { config } = encoder;
  // DINOv2-large has image embeds as wide as CLIP-H's; every published adapter was trained with a CLIP encoder.
  if (config.projectionDim === undefined) return 'it is no CLIP encoder';
  const given = need.output === 'image_embeds' ? config.projectionDim : config.hiddenSize;
  if (given !== need.width) return `the adapter projects from ${need.width}, this encoder gives ${given}`;
  if (!encoder.outputs.includes(need.output)) return `its file lacks the weights for ${need.output}`;
  // An encoder with a configuration of its own is a small one, for tests; what is known of real ones does not hold.
  if (encoder.configuredBy === 'comfy-rule' && config.imageSize !== need.imageSize)
    return `the adapter was trained with pictures of ${need.imageSize} pixels, this encoder takes ${config.imageSize}`;
  return undefined;
}

/** @throws {BridgeError} `PAIR_MISMATCH`, with the reason and what would fit. */
export function requirePair(adapter: IPAdapterModel, encoder: VisionModel): void {
  const problem = encoderProblem(adapter, encoder);
  if (problem === undefined) return;
  throw new BridgeError(
    'PAIR_MISMATCH',
    `${encoder.family} (${encoder.path}) does not fit ${adapter.label}: ${problem}. It wants ${describeEncoderNeed(adapter)}.`,
    { details: { adapter: adapter.path, encoder: encoder.path, wants: adapter.encoder ?? null } },
  );
}

export interface FoundEncoder {
  readonly name: string;
  readonly model: VisionModel;
}

/** Files that a message names; the details have all. */
const MAX_REFUSALS = 8;

/**
 * The first encoder of a folder that fits.
 *
 * @throws {ModelNotFoundError} naming what was looked for, where, and why each file there is not it.
 */
export async function findEncoder(
  adapter: IPAdapterModel,
  source: ModelSource,
  vision: VisionEngine,
  signal?: AbortSignal,
): Promise<FoundEncoder> {
  const refusals: string[] = [];
  for (const { name, path } of await source.list()) {
    try {
      const model = await vision.open(path, signal === undefined ? {} : { signal });
      const problem = encoderProblem(adapter, model);
      if (problem === undefined) return { name, model };
      refusals.push(`${name} (${model.family}): ${problem}`);
    } catch (error) {
      if (!(error instanceof ModelFormatError) && !(error instanceof ModelNotFoundError)) throw error;
      // What is known beside it is no help here.
      refusals.push(`${name}: ${error.message.split('. ')[0]?.replace(/\.$/, '') ?? ''}`);
    }
  }
  const searched = source.places();
  const shown = refusals.slice(0, MAX_REFUSALS).map((refusal) => `\n  not ${refusal}`);
  if (refusals.length > shown.length) shown.push(`\n  nor ${refusals.length - shown.length} more`);
  throw new ModelNotFoundError(
    `Found no vision encoder for ${adapter.label}: it wants ${describeEncoderNeed(adapter)}. Looked in ${searched.join(', ') || 'no folder'}.${shown.length === 0 ? ' There are no files there.' : shown.join('')}`,
    { details: { adapter: adapter.path, wants: adapter.encoder ?? null, searched, refusals } },
  );
}
