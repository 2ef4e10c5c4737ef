/** Parts of a form, bounded in number and in bytes. */
import type { FastifyRequest } from 'fastify';
import { BridgeError } from '../common/errors.js';

export type FormPart =
  | { readonly type: 'file'; readonly field: string; readonly filename: string; readonly bytes: Buffer }
  | { readonly type: 'field'; readonly field: string; readonly value: string };

/** What the heads of parts may take beside their contents before a request is refused by its claimed length. */
export const FORM_HEADS_BYTES = 1024 * 1024;

/**
 * Reads a form part by part. The limit holds for the contents of all parts together, as in ComfyUI.
 *
 * @param options.preservePath Keep what a file's name has before its last part.
 * @throws {BridgeError} `BODY_TOO_LARGE`; what the parser throws for a broken form.
 */
export async function* readForm(
  request: FastifyRequest,
  maxBytes: number,
  { preservePath = false } = {},
): AsyncGenerator<FormPart> {
  let total = 0;
  const count = (bytes: number, isTruncated = false): void => {
    total += bytes;
    if (total > maxBytes || isTruncated) throw bodyTooLarge(maxBytes);
  };
  try {
    if (Number(request.headers['content-length'] ?? 0) > maxBytes + FORM_HEADS_BYTES) throw bodyTooLarge(maxBytes);
    for await (const part of request.parts({ preservePath })) {
      if (part.type === 'field') {
        const value = String(part.value);
        count(Buffer.byteLength(value));
        yield { type: 'field', field: part.fieldname, value };
        continue;
      }
      const chunks: Buffer[] = [];
      for await (const chunk of part.file as AsyncIterable<Buffer>) {
        count(chunk.length);
        chunks.push(chunk);
      }
      // A file that is cut where a chunk ends is told by this flag alone.
      count(0, part.file.truncated);
      yield { type: 'file', field: part.fieldname, filename: part.filename, bytes: Buffer.concat(chunks) };
    }
  } finally {
    // What is still on its way is read and dropped, or the caller could not send on to where our answer is read.
    request.raw.unpipe();
    request.raw.resume();
  }
}

export function bodyTooLarge(maxBytes: number): BridgeError {
  return new BridgeError(
    'BODY_TOO_LARGE',
    `The request body is larger than the ${maxBytes} bytes of --max-upload-size.`,
    { details: { maxBytes } },
  );
}
