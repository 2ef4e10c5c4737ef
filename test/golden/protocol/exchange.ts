/** HTTP exactly as recorded: paths, headers and methods that `fetch` would tidy up or refuse. */
import { request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { writeJson, type Jsonable } from '../../../src/protocol/json.js';
import { withFloats, type Exchange } from './scenario.js';

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

const BOUNDARY = 'recorded-form-boundary';
/** Recordings only state the size of large bodies. */
const STATED_BYTES = /^<(\d+) bytes of '(.)'>$/;
const STATED_JSON = /^<JSON object of more than (\d+) bytes>$/;

/** @param fill Puts bound values into the texts of a request. */
export async function send(
  url: string,
  request: Exchange['request'],
  headers: Readonly<Record<string, string>>,
  fill: (text: string) => string,
): Promise<Answer> {
  const body = bodyOf(request, fill);
  const type = request.multipart === undefined ? undefined : `multipart/form-data; boundary=${BOUNDARY}`;
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest(
      {
        hostname,
        port,
        method: request.method,
        path: fill(request.path),
        headers: {
          ...(type === undefined ? {} : { 'content-type': type }),
          ...(body === undefined ? {} : { 'content-length': body.length }),
          ...headers,
        },
        agent: false,
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) });
        });
      },
    );
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

function bodyOf(request: Exchange['request'], fill: (text: string) => string): Buffer | undefined {
  if (request.body !== undefined) return Buffer.from(fill(withFloats(writeJson(request.body as Jsonable))));
  if (request.body_text !== undefined) return Buffer.from(fill(textOf(request.body_text)));
  if (request.body_base64 !== undefined) return Buffer.from(request.body_base64, 'base64');
  if (request.multipart === undefined) return undefined;
  const parts = request.multipart.flatMap(({ name, value, filename, content_type: type, data_base64: data }) => {
    const file = filename === undefined ? '' : `; filename="${filename}"`;
    const typeLine = type === undefined ? '' : `Content-Type: ${type}\r\n`;
    return [
      Buffer.from(`--${BOUNDARY}\r\nContent-Disposition: form-data; name="${name}"${file}\r\n${typeLine}\r\n`),
      value === undefined ? bytesOf(data ?? '') : Buffer.from(fill(value)),
      Buffer.from('\r\n'),
    ];
  });
  return Buffer.concat([...parts, Buffer.from(`--${BOUNDARY}--\r\n`)]);
}

function bytesOf(recorded: string): Buffer {
  const [, length, letter] = STATED_BYTES.exec(recorded) ?? [];
  return letter === undefined ? Buffer.from(recorded, 'base64') : Buffer.alloc(Number(length), letter);
}

function textOf(recorded: string): string {
  const length = STATED_JSON.exec(recorded)?.[1];
  return length === undefined ? recorded : JSON.stringify({ prompt: {}, filler: 'x'.repeat(Number(length)) });
}
