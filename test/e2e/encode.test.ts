/** Encoding over HTTP: several files in one request, limits, tiles, and the one form of every refusal. */
import { connect } from 'node:net';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as z from 'zod';
import { ERROR_CODES } from '../../src/common/errors.js';
import { parseSafetensors, serializeSafetensors } from '../../src/formats/index.js';
import { f32Tensor, type F32Tensor } from '../../src/tensor/tensor.js';
import { startTestBridge, type TestBridge } from '../support/bridge.js';
import { maxAbsDiff } from '../support/compare.js';
import { startEngine } from '../support/inference.js';
import { TINY, writeTinyModel } from '../support/tiny-model.js';

const LIMIT_MB = 1;
const LIMIT = LIMIT_MB * 1024 * 1024;
const PATH = '/bridge/v1/encode?model=tiny.safetensors';

let started: TestBridge;
let pictures: Buffer[] = [];
beforeAll(async () => {
  started = await startTestBridge({ maxUploadSize: LIMIT_MB });
  await writeTinyModel(join(started.tree.root, 'models', 'clip_vision', 'tiny.safetensors'));
  pictures = await Promise.all(
    ['#a03020', '#20b040', '#3040c0'].map((background, i) =>
      sharp({ create: { width: 40 + i, height: 50, channels: 3, background } })
        .png()
        .toBuffer(),
    ),
  );
});
afterAll(() => started[Symbol.asyncDispose]());

const errorSchema = z.object({
  error: z.object({ code: z.string(), message: z.string(), details: z.record(z.string(), z.unknown()) }),
});

function formOf(files: Readonly<Record<string, Uint8Array>>): FormData {
  const form = new FormData();
  for (const [name, bytes] of Object.entries(files)) form.append('image', new Blob([Uint8Array.from(bytes)]), name);
  return form;
}
const post = (
  body: NonNullable<RequestInit['body']>,
  query = '',
  headers: Record<string, string> = {},
): Promise<Response> =>
  fetch(started.url + PATH + query, { method: 'POST', body, headers, signal: AbortSignal.timeout(20_000) });

interface Answer {
  readonly embeds: Float32Array;
  readonly rows: number;
  readonly indices: unknown;
  readonly errors: unknown;
}

async function answerOf(response: Response): Promise<Answer> {
  expect(response.status).toBe(200);
  const { tensors, metadata } = parseSafetensors(new Uint8Array(await response.arrayBuffer()));
  const embeds = tensors.get('image_embeds');
  if (embeds?.dtype !== 'F32') throw new Error('no embeds');
  return {
    embeds: embeds.data,
    rows: embeds.shape[0] ?? 0,
    indices: JSON.parse(metadata.get('indices') ?? ''),
    errors: JSON.parse(metadata.get('errors') ?? ''),
  };
}

async function refusalOf(response: Response): Promise<z.output<typeof errorSchema>['error']> {
  expect(response.headers.get('content-type')).toContain('application/json');
  const { error } = errorSchema.parse(await response.json());
  expect(Object.keys(ERROR_CODES)).toContain(error.code);
  return error;
}

const P = TINY.projectionDim;
const broken = Buffer.from('no picture');

it('tells its length, and in Server-Timing how long the model itself ran', async () => {
  const pixels = await sharp({ create: { width: 41, height: 43, channels: 3, background: '#123456' } })
    .png()
    .toBuffer();
  const response = await post(formOf({ 'new.png': pixels }));
  const { length } = Buffer.from(await response.clone().arrayBuffer());
  expect(response.headers.get('content-length')).toBe(String(length));
  const [, ms] = /^run;dur=([\d.]+)$/.exec(response.headers.get('server-timing') ?? '') ?? [];
  expect(Number(ms)).toBeGreaterThan(0);
  expect((await answerOf(response)).rows).toBe(1);
});

describe('several files', () => {
  it('are a batch in their order', async () => {
    const [a = broken, b = broken, c = broken] = pictures;
    const all = await answerOf(await post(formOf({ 'a.png': a, 'b.png': b, 'c.png': c })));
    expect(all).toMatchObject({ rows: 3, indices: [0, 1, 2], errors: [] });
    for (const [i, bytes] of pictures.entries()) {
      const alone = await answerOf(await post(formOf({ 'x.png': bytes })));
      expect(alone.embeds).toEqual(all.embeds.slice(i * P, (i + 1) * P));
    }
  });

  it('of which one is broken give the features of the others, and say which failed', async () => {
    const [a = broken, b = broken] = pictures;
    const sound = await answerOf(await post(formOf({ 'a.png': a, 'b.png': b })));
    const files = { 'a.png': a, 'bad.png': broken, 'b.png': b, 'cut.png': a.subarray(0, 60) };
    const got = await answerOf(await post(formOf(files)));
    expect(got.embeds).toEqual(sound.embeds);
    expect(got.indices).toEqual([0, 2]);
    expect(got.errors).toMatchObject([
      { index: 1, filename: 'bad.png', code: 'IMAGE_INVALID', message: expect.stringContaining('bad.png') as string },
      { index: 3, filename: 'cut.png', code: 'IMAGE_INVALID' },
    ]);
    const json = await post(formOf(files), '', { accept: 'application/json' });
    expect(json.status).toBe(200);
    expect(await json.json()).toMatchObject({
      features: { image_embeds: { shape: [2, P] } },
      indices: [0, 2],
      errors: [{ index: 1 }, { index: 3 }],
    });
  });

  it('that are all broken are an error', async () => {
    const response = await post(formOf({ 'a.png': broken, 'b.png': Buffer.from('<svg/>') }));
    expect(response.status).toBe(422);
    const { code, message, details } = await refusalOf(response);
    expect(code).toBe('IMAGE_INVALID');
    expect(message).toContain('a.png');
    expect(details).toMatchObject({ errors: [{ index: 0 }, { index: 1, filename: 'b.png' }] });
  });

  it('count the frames of an animation, whose rows name their file', async () => {
    const frames = await sharp(Buffer.alloc(8 * 24 * 3, 99).fill(7, 0, 300), {
      raw: { width: 8, height: 24, channels: 3, pageHeight: 8 },
    })
      .webp({ lossless: true })
      .toBuffer();
    const [a = broken] = pictures;
    const got = await answerOf(await post(formOf({ 'a.png': a, 'moving.webp': frames, 'b.png': a })));
    expect(got.indices).toEqual([0, 1, 1, 1, 2]);
    expect(got.rows).toBe(5);
  });

  it('more than the limit are refused before any is encoded', async () => {
    const form = formOf(Object.fromEntries(Array.from({ length: 257 }, (_none, i) => [`${i}.png`, broken])));
    const response = await post(form);
    expect(response.status).toBe(400);
    expect((await refusalOf(response)).message).toMatch(/at most 256 pictures/);
  });
});

describe('tiles', () => {
  it('can be asked for; a ratio gives one picture two rows and several one each', async () => {
    const [a = broken, b = broken] = pictures;
    const plain = await answerOf(await post(formOf({ 'a.png': a })));
    const merged = await answerOf(await post(formOf({ 'a.png': a }), '&tiles=2'));
    expect(merged).toMatchObject({ rows: 1, indices: [0] });
    const pair = await answerOf(await post(formOf({ 'a.png': a }), '&tiles=2&tiles_ratio=0.5'));
    expect(pair).toMatchObject({ rows: 2, indices: [0, 0] });
    expect(pair.embeds).toEqual(Float32Array.of(...plain.embeds.map((value) => value / 2), ...merged.embeds));
    const two = await answerOf(await post(formOf({ 'a.png': a, 'b.png': b }), '&tiles=2&tiles_ratio=0.5'));
    expect(two).toMatchObject({ rows: 2, indices: [0, 1] });
    two.embeds.slice(0, P).forEach((value, i) => {
      expect(value).toBeCloseTo(((plain.embeds[i] ?? NaN) + (merged.embeds[i] ?? NaN)) / 2, 5);
    });
  });

  it.each(['&tiles=0', '&tiles=17', '&tiles=x', '&tiles=', '&tiles=2&tiles_ratio=2', '&tiles_ratio=0.5'])(
    '%s is refused',
    async (query) => {
      const response = await post(formOf({ 'a.png': pictures[0] ?? broken }), query);
      expect(response.status).toBe(400);
      expect((await refusalOf(response)).code).toBe('INVALID_REQUEST');
    },
  );
});

describe('a request that is nearly right', () => {
  it('is told which parameter is not known, and which was meant', async () => {
    const response = await post(formOf({ 'a.png': pictures[0] ?? broken }), '&precison=int8');
    expect(response.status).toBe(400);
    expect((await refusalOf(response)).message).toBe('there is no parameter "precison"; did you mean precision?');
  });

  it('is told how to send a picture that came as it is', async () => {
    const response = await post(pictures[0] ?? broken, '');
    expect(response.status).toBe(400);
    expect((await refusalOf(response)).message).toContain('-F image=@picture.png');
  });
});

describe('a body above the limit', () => {
  const exact = Buffer.alloc(LIMIT, 120);

  it.each([
    ['by one byte, in a form', () => formOf({ 'a.png': Buffer.concat([exact, Buffer.of(1)]) })],
    ['by many bytes, in a form', () => formOf({ 'a.png': Buffer.concat([exact, exact, exact]) })],
    ['by two files of a form together', () => formOf({ 'a.png': exact, 'b.png': Buffer.of(1) })],
    ['by one byte, as tensors', () => Buffer.concat([exact, Buffer.of(1)])],
  ])('%s is a 413', async (_what, make) => {
    const response = await post(make());
    expect(response.status).toBe(413);
    expect(await refusalOf(response)).toMatchObject({ code: 'BODY_TOO_LARGE', details: { maxBytes: LIMIT } });
  });

  it('is not one that fills the limit', async () => {
    expect((await refusalOf(await post(formOf({ 'a.png': exact })))).code).toBe('IMAGE_INVALID');
  });

  it("is answered in ComfyUI's words on ComfyUI's routes, and nothing is stored", async () => {
    for (const bytes of [Buffer.concat([exact, Buffer.of(1)]), Buffer.concat([exact, exact])]) {
      const upload = await fetch(`${started.url}/upload/image`, { method: 'POST', body: formOf({ 'big.bin': bytes }) });
      expect(upload.status).toBe(413);
      expect(await upload.text()).toBe(`Maximum request body size ${LIMIT} exceeded.`);
    }
    expect((await fetch(`${started.url}/view?filename=big.bin&type=input`)).status).toBe(404);
    const prompt = await fetch(`${started.url}/prompt`, { method: 'POST', body: Buffer.concat([exact, exact]) });
    expect(prompt.status).toBe(413);
    expect(await prompt.text()).toBe(`Maximum request body size ${LIMIT} exceeded.`);
  });
});

it('gives every caller its own features, also where others have gone away, and keeps those', async () => {
  const model = 'CLIP-ViT-H-demo.safetensors';
  const url = `${started.url}/bridge/v1/encode?model=${model}`;
  const inputs = Array.from({ length: 24 }, (_none, n) =>
    f32Tensor(
      [1, 3, 224, 224],
      Float32Array.from({ length: 3 * 224 * 224 }, (_zero, i) => Math.sin(i / (n + 3))),
    ),
  );
  // By an engine of its own, one at a time.
  await using alone = startEngine();
  const opened = await alone.engine.open(join(started.tree.root, 'models', 'clip_vision', model));
  const expected: (F32Tensor | undefined)[] = [];
  for (const pixelValues of inputs) expected.push((await alone.engine.encode(opened, { pixelValues })).lastHiddenState);
  const send = async (pixelValues: F32Tensor, signal?: AbortSignal): Promise<F32Tensor | undefined> => {
    const body = Uint8Array.from(serializeSafetensors({ pixel_values: pixelValues }));
    const response = await fetch(url, { method: 'POST', body, ...(signal === undefined ? {} : { signal }) });
    expect(response.status).toBe(200);
    const features = parseSafetensors(new Uint8Array(await response.arrayBuffer())).tensors.get('last_hidden_state');
    return features?.dtype === 'F32' ? features : undefined;
  };
  for (let round = 0; round < 2; round += 1) {
    const answers = await Promise.allSettled(
      inputs.map((pixelValues, n) => send(pixelValues, n % 3 === 2 ? AbortSignal.timeout(10 * n) : undefined)),
    );
    for (const [n, answer] of answers.entries()) {
      if (answer.status === 'rejected') expect(n % 3).toBe(2);
      else expect(distanceTo(expected[n], answer.value)).toBeLessThan(1e-4);
    }
  }
  // What was kept meanwhile.
  for (const [n, pixelValues] of inputs.entries())
    expect(distanceTo(expected[n], await send(pixelValues))).toBeLessThan(1e-4);
});

it('takes a body of tensors whose length is not told, up to the same limit', async () => {
  const send = (bytes: Uint8Array): Promise<Response> => {
    const body = new Blob([Uint8Array.from(bytes)]).stream();
    const headers = { 'content-type': 'application/vnd.safetensors' };
    return fetch(started.url + PATH, { method: 'POST', body, headers, duplex: 'half' });
  };
  const side = TINY.imageSize;
  const pixelValues = f32Tensor([1, 3, side, side], new Float32Array(3 * side * side).fill(0.5));
  const bytes = serializeSafetensors({ pixel_values: pixelValues });
  const told = await answerOf(
    await post(Uint8Array.from(bytes), '', { 'content-type': 'application/vnd.safetensors' }),
  );
  expect((await answerOf(await send(bytes))).embeds).toEqual(told.embeds);
  const refused = await send(new Uint8Array(LIMIT + 1));
  expect(refused.status).toBe(413);
  expect(await refusalOf(refused)).toMatchObject({ code: 'BODY_TOO_LARGE', details: { maxBytes: LIMIT } });
});

function distanceTo(expected: F32Tensor | undefined, got: F32Tensor | undefined): number {
  return expected === undefined ? Infinity : maxAbsDiff(got, expected);
}

/** Status and body of what the server answers to bytes. */
function answerToBytes(text: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const [host = '', port = ''] = started.host.split(':');
    const socket = connect(Number(port), host, () => {
      socket.write(text.replaceAll('HOST', started.host), 'latin1');
    });
    let received = '';
    socket.setTimeout(20_000, () => socket.destroy(new Error('no answer')));
    socket.on('data', (data) => (received += data.toString('latin1')));
    socket.on('error', reject);
    socket.on('close', () => {
      resolve({ status: Number(received.slice(9, 12)), body: received.split('\r\n\r\n')[1] ?? '' });
    });
  });
}

describe("a request that never reaches a route has the catalogue's form", () => {
  it.each([
    ['no HTTP', 'hello\r\n\r\n', 400],
    ['a length that is no number', 'POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: x\r\n\r\n', 400],
    ['two lengths', 'POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx', 400],
    ['headers of 100 KB', `GET / HTTP/1.1\r\nHost: HOST\r\nX: ${'x'.repeat(1e5)}\r\n\r\n`, 431],
    ['an address that is none', 'GET /bridge/v1/%C3%28 HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n', 400],
    ['an expectation', `POST ${PATH} HTTP/1.1\r\nHost: HOST\r\nExpect: x\r\nContent-Length: 0\r\n\r\n`, 417],
  ])('%s', async (_what, text, status) => {
    const answer = await answerToBytes(text);
    expect(answer.status).toBe(status);
    const { error } = errorSchema.parse(JSON.parse(answer.body));
    expect(error.code).toBe('INVALID_REQUEST');
  });

  it('a route that is not there', async () => {
    const response = await fetch(`${started.url}/bridge/v1/nothing`);
    expect(response.status).toBe(404);
    expect((await refusalOf(response)).code).toBe('NOT_FOUND');
  });
});
