/**
 * Embeds in files: our own safetensors with their provenance, and the `.ipadpt` files of IPAdapter_plus, which are
 * PyTorch files of one tensor and are read without executing their pickle.
 */
import { basename } from 'node:path';
import * as z from 'zod';
import { ModelFormatError, messageOf } from '../common/errors.js';
import {
  parseSafetensors,
  readModelHeader,
  readTensor,
  serializeSafetensors,
  type ModelHeader,
} from '../formats/index.js';
import { elementCount, type F32Tensor, type Tensor } from '../tensor/tensor.js';
import { toF32 } from '../tensor/to-f32.js';
import type { AdapterFeatures } from './feature-rows.js';
import type { EmbedsProvenance, IPAdapterEmbeds } from './embeds.js';

const FORMAT = 'vision-bridge-ipadapter-embeds';
const VERSION = '1';
/** Embeds of hundreds of pictures; a file beyond this is a model. */
const MAX_EMBEDS_BYTES = 1 << 30;

/** Names of the tensors that embeds are stored and sent as. */
export const EMBEDS_TENSORS = ['cond.image', 'cond.face', 'uncond.image', 'uncond.face'] as const;

const provenanceSchema = z.object({
  adapter: z.object({ name: z.string(), variant: z.string(), identity: z.string() }).optional(),
  encoder: z.object({ name: z.string(), family: z.string(), identity: z.string() }).optional(),
  images: z.array(z.string()),
  settings: z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.array(z.number())])),
});

/** The tensors of embeds under the names that they are stored and sent with. */
export function embedsTensors({ cond, uncond }: IPAdapterEmbeds): Readonly<Record<string, F32Tensor>> {
  const named = {
    'cond.image': cond.image,
    'cond.face': cond.face,
    'uncond.image': uncond?.image,
    'uncond.face': uncond?.face,
  };
  return Object.fromEntries(
    Object.entries(named).flatMap(([name, tensor]) => (tensor === undefined ? [] : [[name, tensor]])),
  );
}

/** Embeds as the bytes of a safetensors file. */
export function serializeEmbeds(embeds: IPAdapterEmbeds): Uint8Array<ArrayBuffer> {
  return serializeSafetensors(embedsTensors(embeds), {
    format: FORMAT,
    version: VERSION,
    provenance: JSON.stringify(embeds.provenance),
  });
}

/**
 * Reads a file of embeds: ours, or one of IPAdapter_plus, which has the conditional part alone.
 *
 * @throws {ModelFormatError} `EMBEDS_INVALID`, and what the container's reader throws.
 */
export async function readEmbeds(path: string): Promise<IPAdapterEmbeds> {
  const header = await readModelHeader(path, { soleTensor: 'embeds' });
  const label = basename(path);
  const sizeBytes = [...header.tensors.values()].reduce((sum, tensor) => sum + tensor.sizeBytes, 0);
  if (sizeBytes > MAX_EMBEDS_BYTES) throw invalid(label, `it has ${sizeBytes} bytes of tensors; is it a model?`);
  return header.metadata.get('format') === FORMAT ? readOwn(header, label) : readForeign(header, label);
}

async function readOwn(header: ModelHeader, label: string): Promise<IPAdapterEmbeds> {
  const tensors = new Map<string, Tensor>();
  for (const name of EMBEDS_TENSORS) {
    if (header.tensors.has(name)) tensors.set(name, await readTensor(header, name));
  }
  return embedsFromTensors(tensors, readProvenance(header.metadata, label), label);
}

/**
 * Embeds of our own format, from the bytes of a safetensors document.
 *
 * @throws {ModelFormatError} `EMBEDS_INVALID`, `SAFETENSORS_INVALID`
 */
export function parseEmbeds(bytes: Uint8Array, label: string): IPAdapterEmbeds {
  const { tensors, metadata } = parseSafetensors(bytes, label);
  if (metadata.get('format') !== FORMAT) throw invalid(label, `its metadata has no format "${FORMAT}"`);
  return embedsFromTensors(tensors, readProvenance(metadata, label), label);
}

/**
 * Embeds from tensors under the names that `embedsTensors` gives them; tensors of other names are left alone.
 *
 * @param origin Their provenance as JSON gives it.
 * @throws {ModelFormatError} `EMBEDS_INVALID`
 */
export function embedsFromTensors(
  tensors: ReadonlyMap<string, Tensor>,
  origin: unknown,
  label: string,
): IPAdapterEmbeds {
  const provenance = checkProvenance(origin, label);
  const find = (name: (typeof EMBEDS_TENSORS)[number]): F32Tensor | undefined => {
    const tensor = tensors.get(name);
    return tensor === undefined ? undefined : checkTensor(tensor, name, label);
  };
  const cond = featuresOf(find('cond.image'), find('cond.face'));
  const uncond = featuresOf(find('uncond.image'), find('uncond.face'));
  if (cond === undefined) throw invalid(label, 'it has neither "cond.image" nor "cond.face"');
  return { kind: 'ipadapter_embeds', cond, ...(uncond === undefined ? {} : { uncond }), provenance };
}

function featuresOf(image: F32Tensor | undefined, face: F32Tensor | undefined): AdapterFeatures | undefined {
  if (image === undefined && face === undefined) return undefined;
  return { ...(image === undefined ? {} : { image }), ...(face === undefined ? {} : { face }) };
}

function readProvenance(metadata: ReadonlyMap<string, string>, label: string): unknown {
  if (metadata.get('version') !== VERSION) {
    throw invalid(label, `its version is ${metadata.get('version') ?? 'not given'}; ${VERSION} is read`);
  }
  try {
    return JSON.parse(metadata.get('provenance') ?? '');
  } catch (error) {
    throw invalid(label, `its provenance is not JSON (${messageOf(error)})`);
  }
}

function checkProvenance(origin: unknown, label: string): EmbedsProvenance {
  const parsed = provenanceSchema.safeParse(origin);
  if (!parsed.success) throw invalid(label, 'its provenance lacks images or settings');
  const { adapter, encoder, images, settings } = parsed.data;
  return {
    ...(adapter === undefined ? {} : { adapter }),
    ...(encoder === undefined ? {} : { encoder }),
    images,
    settings,
  };
}

/** One tensor and nothing else: `torch.save(embeds)`. Face embeddings are `[B, 1, F]`, hidden states have many tokens. */
async function readForeign(header: ModelHeader, label: string): Promise<IPAdapterEmbeds> {
  const [name, ...more] = header.tensors.keys();
  if (name === undefined || more.length > 0) {
    throw invalid(label, `it has ${header.tensors.size} tensors; a file of embeds has one`);
  }
  const tensor = checkTensor(await readTensor(header, name), name, label);
  const cond = tensor.shape.length === 3 && tensor.shape[1] === 1 ? { face: tensor } : { image: tensor };
  return {
    kind: 'ipadapter_embeds',
    cond,
    provenance: { images: [], settings: { source: label } },
  };
}

function checkTensor(stored: Tensor, name: string, label: string): F32Tensor {
  const { shape } = stored;
  if (shape.length < 2 || shape.length > 3 || elementCount(shape) === 0) {
    throw invalid(label, `${name} has the shape [${shape.join(', ')}]; embeds are [B, E] or [B, N, D]`);
  }
  const tensor = toF32(stored);
  if (tensor === undefined) throw invalid(label, `${name} is not stored as a floating-point number`);
  if (!tensor.data.every(Number.isFinite)) throw invalid(label, `${name} holds values that are no numbers`);
  return tensor;
}

function invalid(label: string, problem: string): ModelFormatError {
  return new ModelFormatError('EMBEDS_INVALID', `${label} holds no IP-Adapter embeds: ${problem}.`, {
    details: { file: label },
  });
}
