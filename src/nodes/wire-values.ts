/**
 * Values of links, to and from what a node call carries: JSON for literals and handles, safetensors for tensors.
 *
 * Tensors are named `input.<input>.<field>` and `output.<slot>.<field>`. A value that is no literal is an object with a
 * `kind`. A handle says by itself what it stands for, so that the server keeps nothing for it and a restart costs only
 * time. A new type of link is one entry in CODECS.
 */
import { isAbsolute } from 'node:path';
import * as z from 'zod';
import { BridgeError, InvalidRequestError } from '../common/errors.js';
import { isBlocker, isLiteralType, type NodeDefinition, type NodeInputs, type NodeResult } from '../graph/index.js';
import { isJsonObject, toPlain, type Jsonable, type JsonObject, type JsonValue } from '../protocol/json.js';
import { elementCount, type F32Tensor, type Tensor } from '../tensor/tensor.js';
import {
  featureTensors,
  OUTPUT_FIELDS,
  type OutputName,
  type VisionModel,
  type VisionOutput,
} from '../vision/index.js';
import { embedsCodec, ipadapterCodec } from './ipadapter-codecs.js';
import { EMBEDS, IPADAPTER } from './ipadapter-values.js';
import {
  checkIdentity,
  expectKind,
  fileIdentity,
  type Codec,
  type WireServices,
  type WireValue,
} from './wire-codec.js';

/** A model that a prompt or a call named; its name is what a handle needs. */
export interface NamedVisionModel extends VisionModel {
  readonly name: string;
}

/** A value of the caller's that stays with the caller: the node may pass it on, and nothing else. */
interface PassedValue {
  readonly kind: 'passed';
  readonly input: string;
}

function isPassedValue(value: unknown): value is PassedValue {
  return typeof value === 'object' && value !== null && 'kind' in value && value.kind === 'passed';
}

/** Field of a value that is one tensor. */
const TENSOR_FIELD = 'tensor';

const handleSchema = z.object({
  kind: z.literal('clip_vision'),
  folder: z.literal('clip_vision'),
  name: z.string().min(1).max(4096),
  identity: z.string().max(200).optional(),
});

const CODECS: Readonly<Record<string, Codec>> = {
  IMAGE: tensorCodec('image', [4]),
  MASK: tensorCodec('mask', [2, 3]),
  CLIP_VISION_OUTPUT: {
    decode(value, tensors) {
      expectKind(value, 'features');
      const found = Object.entries(OUTPUT_FIELDS).flatMap(([name, field]): [string, F32Tensor][] => {
        const tensor = tensors.get(name);
        return tensor === undefined ? [] : [[field, checkFeature(name, tensor)]];
      });
      if (found.length === 0)
        throw new InvalidRequestError(`Features hold at least one of ${Object.keys(OUTPUT_FIELDS).join(', ')}.`);
      return Object.fromEntries(found) satisfies VisionOutput;
    },
    encode: (value) => ({ value: { kind: 'features' }, tensors: featureTensors(value as VisionOutput) }),
  },
  [IPADAPTER]: ipadapterCodec,
  [EMBEDS]: embedsCodec,
  CLIP_VISION: {
    async decode(value, _tensors, { paths, vision }): Promise<NamedVisionModel> {
      const handle = handleSchema.safeParse(toPlain(value));
      if (!handle.success)
        throw new InvalidRequestError('A CLIP_VISION is a handle {kind: "clip_vision", folder, name, identity}.');
      const { name, identity } = handle.data;
      if (isAbsolute(name)) throw new InvalidRequestError('A model is named relative to its folder.');
      const model = await vision.open(await paths.resolve('clip_vision', name));
      await checkIdentity(model.path, identity, { folder: 'clip_vision', name });
      return { ...model, name };
    },
    async encode(value) {
      const { name, path, family, modelType, config, outputs, prefixTokens } = value as NamedVisionModel;
      const identity = await fileIdentity(path);
      const shown = {
        family,
        model_type: modelType,
        outputs,
        prefix_tokens: prefixTokens,
        layers: config.layers,
        hidden_size: config.hiddenSize,
        projection_dim: config.projectionDim ?? null,
        image_size: config.imageSize,
        image_mean: config.imageMean,
        image_std: config.imageStd,
      };
      return { value: { kind: 'clip_vision', folder: 'clip_vision', name, identity, ...shown } };
    },
  },
};

/** Inputs of a call as the node takes them; literals stay JSON. @throws {InvalidRequestError} naming the input. */
export async function decodeInputs(
  definition: NodeDefinition,
  values: JsonObject,
  tensors: ReadonlyMap<string, Tensor>,
  services: WireServices,
): Promise<NodeInputs> {
  const used = new Set<string>();
  const inputs: Record<string, unknown> = {};
  for (const [name, value] of values) {
    const prefix = `input.${name}.`;
    const own = [...tensors].filter(([key]) => key.startsWith(prefix));
    for (const [key] of own) used.add(key);
    const fields = new Map(own.map(([key, tensor]) => [key.slice(prefix.length), tensor]));
    const input = definition.inputs.find((candidate) => candidate.name === name);
    inputs[name] = input === undefined ? value : await decodeValue(input.type, name, value, fields, services);
  }
  const stray = [...tensors.keys()].find((key) => !used.has(key));
  if (stray !== undefined)
    throw new InvalidRequestError(
      `The tensor ${JSON.stringify(stray)} belongs to no input of ${definition.classType}.`,
    );
  return inputs;
}

async function decodeValue(
  type: string,
  name: string,
  value: JsonValue,
  fields: ReadonlyMap<string, Tensor>,
  services: WireServices,
): Promise<unknown> {
  if (isLiteralType(type)) return value;
  if (!isJsonObject(value)) throw new InvalidRequestError(`${name}: a ${type} is an object with a "kind".`);
  if (type === '*') {
    expectKind(value, 'opaque');
    return { kind: 'passed', input: name } satisfies PassedValue;
  }
  const codec = CODECS[type];
  if (codec === undefined) throw new InvalidRequestError(`${name}: a ${type} cannot be sent with a node call.`);
  try {
    return await codec.decode(value, fields, services);
  } catch (error) {
    if (error instanceof InvalidRequestError)
      throw new InvalidRequestError(`${name}: ${error.message}`, { cause: error, details: error.details });
    throw error;
  }
}

interface WireOutputs {
  readonly values: readonly Jsonable[];
  readonly tensors: Readonly<Record<string, Tensor>>;
}

/** Outputs of a call as they are sent. */
export async function encodeOutputs(definition: NodeDefinition, { outputs = [] }: NodeResult): Promise<WireOutputs> {
  const values: Jsonable[] = [];
  const tensors: Record<string, Tensor> = {};
  for (const [slot, { type }] of definition.outputs.entries()) {
    const wire = await encodeValue(type, outputs[slot]);
    values.push(wire.value);
    for (const [field, tensor] of Object.entries(wire.tensors ?? {})) tensors[`output.${slot}.${field}`] = tensor;
  }
  return { values, tensors };
}

async function encodeValue(type: string, value: unknown): Promise<WireValue> {
  if (isBlocker(value)) return { value: { kind: 'blocked', message: value.message ?? null } };
  if (isPassedValue(value)) return { value: { kind: 'passed', input: value.input } };
  if (isLiteralType(type)) return { value: value as Jsonable };
  const codec = CODECS[type];
  if (codec === undefined) throw new BridgeError('INTERNAL', `A ${type} cannot be sent as the result of a node call.`);
  return codec.encode(value);
}

function tensorCodec(kind: string, ranks: readonly number[]): Codec {
  return {
    decode(value, tensors) {
      expectKind(value, kind);
      const tensor = tensors.get(TENSOR_FIELD);
      if (tensor?.dtype !== 'F32' || !ranks.includes(tensor.shape.length) || elementCount(tensor.shape) === 0)
        throw new InvalidRequestError(`an F32 tensor with ${ranks.join(' or ')} dimensions, not empty, is needed.`);
      return tensor;
    },
    encode: (value) => ({ value: { kind }, tensors: { [TENSOR_FIELD]: value as F32Tensor } }),
  };
}

/** Dimensions of each feature, as CLIP_VISION_OUTPUT has them. */
const FEATURE_RANKS: Readonly<Record<OutputName, readonly number[]>> = {
  last_hidden_state: [3],
  penultimate_hidden_states: [3],
  image_embeds: [2, 3],
  mm_projected: [3],
  all_hidden_states: [4],
};

/** @throws {InvalidRequestError} for a tensor that is no such feature. */
export function checkFeature(name: string, tensor: Tensor): F32Tensor {
  const ranks = FEATURE_RANKS[name as OutputName];
  if (tensor.dtype !== 'F32' || !ranks.includes(tensor.shape.length) || elementCount(tensor.shape) === 0) {
    throw new InvalidRequestError(
      `${name} is ${tensor.dtype} [${tensor.shape.join(', ')}]; F32 with ${ranks.join(' or ')} dimensions is needed.`,
    );
  }
  return tensor;
}
