/** `POST /bridge/v1/nodes/{class_type}`: one node, for hosts that have a graph of their own. */
import { randomUUID } from 'node:crypto';
import type { FastifyInstance } from 'fastify';
import * as z from 'zod';
import type { Bridge } from '../../bridge.js';
import { InvalidRequestError } from '../../common/errors.js';
import { parseSafetensors, serializeSafetensors } from '../../formats/index.js';
import { decodeInputs, encodeOutputs } from '../../nodes/index.js';
import { isJsonObject, parseJson, writeJson } from '../../protocol/json.js';
import { parseQuery } from '../query.js';
import { abortWhenClosed, pathText, SAFETENSORS } from '../reply.js';

const MAX_ID_LENGTH = 200;

export const nodeQuerySchema = z.object({
  call_id: z.string().min(1).max(MAX_ID_LENGTH).optional(),
  client_id: z.string().min(1).max(MAX_ID_LENGTH).optional(),
});

export function registerNodeRoutes(app: FastifyInstance, { nodeCalls, paths, vision, ipadapter }: Bridge): void {
  app.post('/bridge/v1/nodes/:classType', async (request, reply) => {
    const { call_id: callId = randomUUID(), client_id: clientId } = parseQuery(nodeQuerySchema, request);
    const definition = nodeCalls.definition(pathText(request, 'classType'));
    if (!(request.body instanceof Buffer) || request.body.length === 0)
      throw new InvalidRequestError('The body is a safetensors document with "inputs" as JSON in its metadata.');
    const signal = abortWhenClosed(reply);
    const { tensors, metadata } = parseSafetensors(request.body, 'The request body');
    const values = parseJson(metadata.get('inputs') ?? '{}');
    if (!isJsonObject(values)) throw new InvalidRequestError('"inputs" is a JSON object.');
    const inputs = await decodeInputs(definition, values, tensors, { paths, vision, ipadapter });
    const result = await nodeCalls.call(definition.classType, inputs, { callId, clientId, signal });
    const outputs = await encodeOutputs(definition, result);
    const bytes = serializeSafetensors(outputs.tensors, {
      node: definition.classType,
      outputs: writeJson(outputs.values),
      ...(result.ui === undefined ? {} : { ui: writeJson(result.ui) }),
    });
    return reply.header('content-type', SAFETENSORS).send(Buffer.from(bytes.buffer));
  });
}
