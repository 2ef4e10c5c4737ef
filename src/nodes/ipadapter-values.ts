/** What travels between the IP-Adapter nodes. */
import type { FaceModel } from '../faces/index.js';
import { findEncoder, openFacePack, type IPAdapterEmbeds, type IPAdapterModel } from '../adapter/index.js';
import { BridgeError } from '../common/errors.js';
import { PythonError, type NodeInputs } from '../graph/index.js';
import type { F32Tensor } from '../tensor/tensor.js';
import type { VisionEngine, VisionModel } from '../vision/index.js';
import type { IPAdapterServices } from './services.js';

export const IPADAPTER = 'VISION_BRIDGE_IPADAPTER';
export const EMBEDS = 'VISION_BRIDGE_EMBEDS';
export const CATEGORY = 'vision bridge/ipadapter';
export const MODULE = 'custom_nodes.vision-bridge';
/** Choice of a loader that leaves the finding to us. */
export const AUTO = 'auto';

/** An adapter with what it reads pictures with; nothing is loaded yet. Plain data: names are what a handle needs. */
export interface LoadedIPAdapter {
  readonly kind: 'ipadapter';
  readonly name: string;
  readonly adapter: IPAdapterModel;
  readonly encoderName?: string | undefined;
  readonly encoder?: VisionModel | undefined;
  readonly faces?: FaceModel | undefined;
}

interface IPAdapterNames {
  readonly name: string;
  /** Left out: the first encoder that fits by content. */
  readonly encoderName: string | undefined;
  /** Left out: the first pack that is complete. */
  readonly facePack: string | undefined;
}

/** @throws {BridgeError} `MODEL_NOT_FOUND`, `ADAPTER_UNKNOWN`, saying what was looked for and where */
export async function openIPAdapter(
  { adapters, faces, folders }: IPAdapterServices,
  vision: VisionEngine,
  { name, encoderName, facePack }: IPAdapterNames,
  signal?: AbortSignal,
): Promise<LoadedIPAdapter> {
  const options = signal === undefined ? {} : { signal };
  const adapter = await adapters.open(await folders.adapters.resolve(name), options);
  const encoder =
    adapter.encoder === undefined
      ? undefined
      : encoderName === undefined
        ? await findEncoder(adapter, folders.encoders, vision, signal)
        : { name: encoderName, model: await vision.open(await folders.encoders.resolve(encoderName), options) };
  return {
    kind: 'ipadapter',
    name,
    adapter,
    encoderName: encoder?.name,
    encoder: encoder?.model,
    faces: adapter.face === undefined ? undefined : await openFacePack(faces, folders.facePacks, facePack),
  };
}

export function ipadapterInput(inputs: NodeInputs, name: string): LoadedIPAdapter {
  const value = inputs[name];
  if (!hasKind(value, 'ipadapter')) throw wrong(name, 'an IP-Adapter');
  return value as LoadedIPAdapter;
}

export function embedsInput(inputs: NodeInputs, name: string): IPAdapterEmbeds {
  const value = inputs[name];
  if (!hasKind(value, 'ipadapter_embeds')) throw wrong(name, 'embeds');
  return value as IPAdapterEmbeds;
}

/** An optional MASK `[M, H, W]`; one without the first dimension gets it. */
export function optionalMask(inputs: NodeInputs, name: string): F32Tensor | undefined {
  const value = inputs[name];
  if (value === undefined) return undefined;
  if (typeof value !== 'object' || value === null || !('shape' in value) || !Array.isArray(value.shape))
    throw wrong(name, 'a MASK');
  const mask = value as unknown as F32Tensor;
  return mask.shape.length === 2 ? { ...mask, shape: [1, ...mask.shape] } : mask;
}

export function optionalNumber(inputs: NodeInputs, name: string, standard: number): number {
  const value = inputs[name];
  return typeof value === 'number' || typeof value === 'bigint' ? Number(value) : standard;
}

export function optionalText(inputs: NodeInputs, name: string, standard: string): string {
  const value = inputs[name];
  return typeof value === 'string' ? value : standard;
}

/** Names of a source as the choices of a COMBO, with `auto` before them where that makes sense. */
export async function choicesOf(
  { folders }: IPAdapterServices,
  kind: keyof IPAdapterServices['folders'],
  withAuto = false,
): Promise<string[]> {
  const names = (await folders[kind].list()).map(({ name }) => name);
  return withAuto ? [AUTO, ...names] : names;
}

function hasKind(value: unknown, kind: string): boolean {
  return typeof value === 'object' && value !== null && 'kind' in value && value.kind === kind;
}

function wrong(name: string, wanted: string): PythonError {
  return new PythonError('TypeError', `The input ${name} is not ${wanted}.`);
}
