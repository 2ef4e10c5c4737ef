/** `/bridge/v1/…`: our own routes. Tensors travel as safetensors, both ways. */
import { isAbsolute } from 'node:path';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { Bridge } from '../../bridge.js';
import { InvalidRequestError } from '../../common/errors.js';
import { readPackageVersion } from '../../common/package-version.js';
import { parseSafetensors, serializeSafetensors } from '../../formats/index.js';
import { decodeImage } from '../../image/index.js';
import type { Jsonable } from '../../protocol/json.js';
import type { F32Tensor, U8Tensor } from '../../tensor/tensor.js';
import {
  featureTensors,
  joinOutputs,
  OUTPUT_FIELDS,
  type OutputName,
  type VisionInput,
  type VisionOutput,
} from '../../vision/index.js';
import { NODE_PROTOCOL } from '../../nodes/index.js';
import { abortWhenClosed, SAFETENSORS, sendJson } from '../reply.js';

const outputNames = Object.keys(OUTPUT_FIELDS) as [OutputName, ...OutputName[]];

const encodeQuerySchema = z.object({
  model: z.string().min(1, 'name a model of the clip_vision folder'),
  crop: z.enum(['center', 'none']).default('center'),
  precision: z.enum(['comfy', 'fp32']).default('comfy'),
  outputs: z
    .string()
    .transform((text) => text.split(','))
    .pipe(z.array(z.enum(outputNames)).min(1))
    .optional(),
});

export function registerBridgeRoutes(app: FastifyInstance, bridge: Bridge): void {
  const version = readPackageVersion();
  app.get('/bridge/v1/health', (_request, reply) => {
    const { inference, queue, installation, paths } = bridge;
    const { pid, pendingCalls, crashes } = inference.state;
    return sendJson(reply, {
      status: 'ok',
      version,
      node_protocol: NODE_PROTOCOL,
      comfyui:
        installation === undefined
          ? null
          : { root: installation.root, found_by: installation.foundBy, version: installation.version ?? null },
      base_directory: paths.baseDirectory,
      queue_remaining: queue.remaining,
      inference: { pid: pid ?? null, pending: pendingCalls, crashes },
    });
  });

  app.get('/bridge/v1/paths', (_request, reply) => {
    const { paths } = bridge;
    const folders = paths.names().map((name): [string, Jsonable] => [
      name,
      {
        folders: paths.folders(name).map(({ path, origin }) => ({ path, origin: { ...origin } })),
        extensions: [...paths.extensions(name)].sort(),
      },
    ]);
    return sendJson(reply, { folders: new Map(folders), problems: paths.problems.map((problem) => ({ ...problem })) });
  });

  app.post('/bridge/v1/encode', async (request, reply) => {
    const query = encodeQuerySchema.safeParse(request.query);
    if (!query.success) {
      throw new InvalidRequestError(
        query.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; '),
      );
    }
    const { model: name, crop, precision, outputs } = query.data;
    if (isAbsolute(name))
      throw new InvalidRequestError('A model is named relative to its folder, not by an absolute path.');
    const signal = abortWhenClosed(reply);
    const model = await bridge.vision.open(await bridge.paths.resolve('clip_vision', name), { signal });
    const parts: VisionOutput[] = [];
    for await (const input of readImages(request, signal)) {
      parts.push(
        await bridge.vision.encode(model, input, {
          crop,
          precision,
          signal,
          ...(outputs === undefined ? {} : { outputs }),
        }),
      );
    }
    if (parts.length === 0)
      throw new InvalidRequestError(
        'The request holds no image: send files as multipart/form-data, or a safetensors body.',
      );
    const tensors = featureTensors(joinOutputs(parts));
    if (request.headers.accept?.includes('application/json') === true) {
      return sendJson(reply, {
        model: { name, family: model.family },
        features: Object.fromEntries(Object.entries(tensors).map(jsonTensor)),
      });
    }
    const bytes = serializeSafetensors(tensors, { model: name, family: model.family, precision, crop });
    return reply.header('content-type', SAFETENSORS).send(Buffer.from(bytes.buffer));
  });
}

/** Inputs in the order in which they came: files of a form, or the tensor of a safetensors body. */
async function* readImages(request: FastifyRequest, signal: AbortSignal): AsyncGenerator<VisionInput> {
  if (request.isMultipart()) {
    for await (const part of request.parts()) {
      if (part.type !== 'file') continue;
      const { rgb } = await decodeImage(await part.toBuffer(), { label: part.filename, signal });
      yield rgb;
    }
    return;
  }
  if (!(request.body instanceof Buffer) || request.body.length === 0) return;
  const { tensors } = parseSafetensors(request.body, 'The request body');
  const pixelValues = tensors.get('pixel_values');
  const image = tensors.get('image');
  if (pixelValues?.dtype === 'F32') yield { pixelValues };
  else if (image?.dtype === 'F32' || image?.dtype === 'U8') yield image satisfies F32Tensor | U8Tensor;
  else
    throw new InvalidRequestError(
      'A safetensors body holds "image" (F32 or U8, [B, H, W, C]) or "pixel_values" (F32, [B, 3, S, S]).',
    );
}

function jsonTensor([name, { shape, data }]: [string, F32Tensor]): [string, Jsonable] {
  return [name, { shape, data: Array.from(data) }];
}
