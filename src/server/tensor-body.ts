/**
 * Requests whose bodies and answers are tensors, both in memory that is used again: that memory is fresh costs more than
 * everything else that is done with a picture's worth of it.
 */
import type { IncomingMessage } from 'node:http';
import { finished } from 'node:stream/promises';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { BufferPool, type BufferLease } from '../runtime/index.js';
import { bodyTooLarge } from './multipart.js';
import { SAFETENSORS } from './reply.js';

/** A body that claims more gets its memory as it comes in. */
const MAX_LEASED_BYTES = 16_777_216;

/**
 * Makes the routes of `app` receive safetensors so. Call it before they are registered.
 *
 * @returns the memory of a request and its answer, which is the request's until the connection has taken the answer.
 */
export function leaseTensorMemory(app: FastifyInstance, maxBytes: number): (request: FastifyRequest) => BufferLease {
  const buffers = new BufferPool();
  const leases = new WeakMap<FastifyRequest, BufferLease>();
  const leaseOf = (request: FastifyRequest): BufferLease => {
    const lease = leases.get(request) ?? buffers.lease();
    leases.set(request, lease);
    return lease;
  };
  app.addHook('onRequest', async (request, reply) => {
    const lease = leaseOf(request);
    reply.raw.once('close', () => void lease.release());
  });
  app.addContentTypeParser(SAFETENSORS, async (request: FastifyRequest, payload: IncomingMessage) =>
    receive(payload, maxBytes, leaseOf(request)),
  );
  return leaseOf;
}

/** @throws {BridgeError} `BODY_TOO_LARGE` */
async function receive(payload: IncomingMessage, maxBytes: number, lease: BufferLease): Promise<Buffer> {
  const claimed = Number(payload.headers['content-length'] ?? NaN);
  const target = claimed <= MAX_LEASED_BYTES ? Buffer.from(lease.take(claimed), 0, claimed) : undefined;
  const chunks: Buffer[] = [];
  let size = 0;
  payload.on('data', (chunk: Buffer) => {
    if (target !== undefined) target.set(chunk, size);
    else if (size <= maxBytes) chunks.push(chunk);
    size += chunk.length;
  });
  await finished(payload);
  if (size > maxBytes) throw bodyTooLarge(maxBytes);
  return target ?? Buffer.concat(chunks);
}
