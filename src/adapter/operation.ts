/**
 * Projecting, inside the inference process: open the adapter on first use, run.
 *
 * The parent sends a path, not a header: the file is looked at again here, so that a file that was replaced is never run
 * with the offsets of the old one. Projections stay open; the layers' keys and values, most of an SDXL adapter's bytes,
 * are computed a group of layers at a time, and stay open only where one group is all of them.
 */
import { throwIfAborted } from '../common/abort.js';
import { readModelHeader } from '../formats/index.js';
import {
  nextMessages,
  Session,
  singleOperation,
  type Device,
  type Operation,
  type OperationCall,
} from '../runtime/index.js';
import { viewRows, type F32Tensor } from '../tensor/tensor.js';
import { batchOf, joinBatch } from '../vision/index.js';
import type { ProjectionInput } from './families/index.js';
import { buildLayersGraph, buildProjectionGraph, keysName, SCALE, TOKENS, valuesName } from './graph.js';
import { openInt8Projection } from './int8-projection.js';
import type { KeptPlace } from './kept-projection.js';
import { resolveAdapter, type ResolvedAdapter } from './model.js';

/** Name under which the parent calls it. */
export const PROJECT_OPERATION = 'adapter.project';

/** Each with the same first dimension. */
export type ProjectInputs = Readonly<Partial<Record<ProjectionInput, F32Tensor>>>;

export interface ProjectRequest {
  /** Real path of the adapter. */
  readonly path: string;
  readonly isFaceIdV2: boolean;
  /** Rows to be projected, in their order; absent where `tokens` are given. */
  readonly batches?: readonly ProjectInputs[];
  /** Tokens that are known already, whose keys and values are wanted: f32 `[B, T, C]`. */
  readonly tokens?: F32Tensor;
  /** Share of the resampler in FaceID-plus v2. */
  readonly scale: number;
  /** Layers whose keys and values are wanted. */
  readonly layers: readonly number[];
  /** Round the resampler to 8 bits, where that is measured to be good enough. */
  readonly isInt8: boolean;
  /** Where its rounded form is kept, for the weights of this state of the file. */
  readonly kept?: KeptPlace & { readonly stamp: string };
  readonly device: Device;
}

export interface ProjectReply {
  readonly tokens: F32Tensor;
  /** `k.1`, `v.1`, … of the layers asked for. */
  readonly keyValues: Readonly<Record<string, F32Tensor>>;
  /** State of the file that it was made from. */
  readonly stamp: string;
  /** Why the rounded form could not be kept. */
  readonly keepingError?: string;
}

/** Rows per run: keeps memory flat and cancellation prompt. */
const ROWS_PER_RUN = 8;
/** Sessions kept open; the least recently used one goes first. */
const MAX_OPEN_SESSIONS = 4;
/** Stored bytes of layers that are in memory at once: half floats take twice as many there. */
const MAX_GROUP_BYTES = 256 * 2 ** 20;

/** The operation, with sessions of its own. */
export function createProjectOperation(): Operation {
  const open = new Map<string, Session>();

  const acquire = async (
    key: string,
    { model }: ResolvedAdapter,
    call: OperationCall,
    load: () => Promise<Session>,
  ): Promise<Session> => {
    const known = open.get(key);
    if (known !== undefined) {
      open.delete(key);
      open.set(key, known);
      return known;
    }
    call.report({ stage: 'loading', model: model.path });
    for (const [oldest, session] of open) {
      if (open.size < MAX_OPEN_SESSIONS) break;
      open.delete(oldest);
      await session[Symbol.asyncDispose]();
    }
    const fresh = await load();
    open.set(key, fresh);
    return fresh;
  };

  return singleOperation(async (call) => {
    // Both sides of the channel are this program.
    const request = call.payload as ProjectRequest;
    const header = await readModelHeader(request.path);
    const adapter = resolveAdapter(header, { isFaceIdV2: request.isFaceIdV2 });
    const { model, folder: weightsFolder } = adapter;
    const { device, batches, kept } = request;
    const key = `${model.stamp} ${model.variant} ${device}`;
    let keepingError: string | undefined;
    const loadProjection = async (): Promise<Session> => {
      if (!request.isInt8 || device !== 'cpu')
        return Session.create((options) => buildProjectionGraph(adapter, options), { weightsFolder, device });
      // What is kept is that of the weights that were hashed, and a file may have been replaced since.
      const place = kept?.stamp === model.stamp ? kept : undefined;
      const measured = await openInt8Projection(header, adapter, () => checkpoint(call), place);
      ({ keepingError } = measured);
      return measured.session;
    };
    const tokens =
      request.tokens ??
      (await project(
        await acquire(`${key} ${request.isInt8 ? 'int8' : ''}`, adapter, call, loadProjection),
        adapter,
        { batches: batches ?? [], scale: request.scale },
        call,
      ));
    const keyValues: Record<string, F32Tensor> = {};
    const groups = groupLayers(adapter, request.layers);
    for (const layers of groups) {
      await checkpoint(call);
      const load = (): Promise<Session> => Session.create(buildLayersGraph(adapter, layers), { weightsFolder, device });
      const names = layers.flatMap((layer) => [keysName(layer), valuesName(layer)]);
      const isOnlyGroup = groups.length === 1;
      const session = isOnlyGroup ? await acquire(`${key} layers ${layers.join()}`, adapter, call, load) : await load();
      try {
        for (const [name, tensor] of await session.run({ [TOKENS]: tokens }, names)) keyValues[name] = tensor;
      } finally {
        if (!isOnlyGroup) await session[Symbol.asyncDispose]();
      }
    }
    return {
      tokens,
      keyValues,
      stamp: model.stamp,
      ...(keepingError === undefined ? {} : { keepingError }),
    } satisfies ProjectReply;
  });
}

/** Lets messages in, and stops a call that was given up. */
async function checkpoint({ signal }: OperationCall): Promise<void> {
  await nextMessages();
  throwIfAborted(signal);
}

async function project(
  session: Session,
  { model, family }: ResolvedAdapter,
  { batches, scale }: { readonly batches: readonly ProjectInputs[]; readonly scale: number },
  call: OperationCall,
): Promise<F32Tensor> {
  const rows = batches.flatMap((inputs) => {
    const count = inputs[family.inputs[0] ?? 'image_embeds']?.shape[0] ?? 0;
    return Array.from({ length: count }, (_none, row) => ({ inputs, row }));
  });
  const parts: F32Tensor[] = [];
  for (let first = 0; first < rows.length; first += ROWS_PER_RUN) {
    await checkpoint(call);
    const own = rows.slice(first, first + ROWS_PER_RUN);
    const feeds: Record<string, F32Tensor> =
      model.variant === 'faceid_plus_v2' ? { [SCALE]: { dtype: 'F32', shape: [1], data: Float32Array.of(scale) } } : {};
    for (const name of family.inputs) {
      const tensors = own.flatMap(({ inputs: { [name]: tensor }, row }) =>
        tensor === undefined ? [] : viewRows(tensor, row),
      );
      if (tensors.length > 0) feeds[name] = batchOf(tensors);
    }
    const tokens = (await session.run(feeds, [TOKENS])).get(TOKENS);
    if (tokens !== undefined) parts.push(tokens);
    call.report({ stage: 'running', done: first + own.length, total: rows.length });
  }
  return joinBatch(parts);
}

/** Layers in their order, in groups of bounded size; a layer larger than the bound is a group of its own. */
function groupLayers({ keys }: ResolvedAdapter, layers: readonly number[]): number[][] {
  const groups: number[][] = [];
  let bytes = Infinity;
  for (const layer of layers) {
    const sizeBytes = 2 * (keys.attention.get(`${layer}.to_k_ip.weight`)?.sizeBytes ?? 0);
    if (bytes + sizeBytes > MAX_GROUP_BYTES) {
      groups.push([]);
      bytes = 0;
    }
    groups.at(-1)?.push(layer);
    bytes += sizeBytes;
  }
  return groups;
}
