/**
 * Broken and hostile input over the wire: each is one error of the catalogue, and the next good request is answered as
 * if nothing had been.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { deflateSync, gzipSync } from 'node:zlib';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { ERROR_CODES, type ErrorCode } from '../../src/common/errors.js';
import { parseSafetensors, serializeSafetensors } from '../../src/formats/index.js';
import { f32Tensor, u8Tensor, type Tensor } from '../../src/tensor/tensor.js';
import { startTestBridge, type TestBridge } from '../support/bridge.js';
import {
  exifOf,
  gifClaiming,
  jpegClaiming,
  jpegWith,
  pngChunk,
  pngClaiming,
  pngWith,
  tiffClaiming,
  tiffOf,
  webpCanvas,
  webpOf,
} from '../support/hostile-images.js';
import { fileOf, SoundModel } from '../support/hostile-models.js';
import { TINY, writeTinyModel } from '../support/tiny-model.js';
import { archiveOf, legacyTorchFileOf, pickledTensor, py, torchFileOf, zipOf } from '../support/torch-files.js';

const MODEL = 'tiny.safetensors';
const UPLOAD_LIMIT_MB = 4;
/** Of each kind of hostile input there are at least so many. */
const LEAST = 6;
/** Nothing hostile may take longer; most take milliseconds. */
const PATIENCE_MS = 20_000;
const SIDE = TINY.imageSize;

let started: TestBridge;
let sound: SoundModel;
let expected: Tensor | undefined;
const clipVision = (name: string): string => join(started.tree.root, 'models', 'clip_vision', name);
const encodeUrl = (model = MODEL): string => `/bridge/v1/encode?model=${encodeURIComponent(model)}`;

beforeAll(async () => {
  started = await startTestBridge({ maxUploadSize: UPLOAD_LIMIT_MB });
  await writeTinyModel(clipVision(MODEL));
  sound = new SoundModel(await readFile(clipVision(MODEL)));
  expected = await goodFeatures();
});
afterEach(async () => {
  expect(await goodFeatures()).toEqual(expected);
});
afterAll(async () => {
  expect(started.bridge.inference.state.crashes).toBe(0);
  await started[Symbol.asyncDispose]();
});

const post = (
  path: string,
  body: NonNullable<RequestInit['body']>,
  headers: Record<string, string> = {},
): Promise<Response> =>
  fetch(started.url + path, { method: 'POST', body, headers, signal: AbortSignal.timeout(PATIENCE_MS) });

const goodImage = u8Tensor(
  [1, SIDE + 8, SIDE, 3],
  Uint8Array.from({ length: (SIDE + 8) * SIDE * 3 }, (_none, i) => (i * 37) % 251),
);

async function goodFeatures(): Promise<Tensor | undefined> {
  const response = await post(encodeUrl(), serializeSafetensors({ image: goodImage }));
  expect(response.status).toBe(200);
  return parseSafetensors(new Uint8Array(await response.arrayBuffer())).tensors.get('image_embeds');
}

/** The code of the error, or `features` for an answer whose numbers are all finite. */
async function outcomeOf(response: Response): Promise<string> {
  if (response.status === 200) {
    const { tensors } = parseSafetensors(new Uint8Array(await response.arrayBuffer()));
    for (const { data } of tensors.values()) expect(data.every((value) => Number.isFinite(Number(value)))).toBe(true);
    return 'features';
  }
  expect(response.status).toBeGreaterThanOrEqual(400);
  const { error } = (await response.json()) as { error: { code: ErrorCode; message: string } };
  expect(Object.keys(ERROR_CODES)).toContain(error.code);
  expect(error.code).not.toBe('INTERNAL');
  expect(error.message).toMatch(/\w{3}/);
  return error.code;
}

type ModelCase = readonly [what: string, make: (model: SoundModel) => Buffer, outcome: ErrorCode];

const Q = 'vision_model.encoder.layers.0.self_attn.q_proj.weight';
const FC1 = 'vision_model.encoder.layers.1.mlp.fc1.weight';
const PATCHES = 'vision_model.embeddings.patch_embedding.weight';
const POSITIONS = 'vision_model.embeddings.position_embedding.weight';
const CLASS = 'vision_model.embeddings.class_embedding';
const { hiddenSize: WIDTH, intermediateSize: WIDE, patchSize: PATCH } = TINY;
const bytesOfQ = WIDTH * WIDTH * 2;

const headers: readonly ModelCase[] = [
  ['no bytes', () => Buffer.alloc(0), 'MODEL_FORMAT_UNSUPPORTED'],
  ['seven bytes', () => Buffer.alloc(7), 'SAFETENSORS_INVALID'],
  ['a header of no bytes', () => fileOf(''), 'SAFETENSORS_INVALID'],
  ['a claimed length of 2^64 - 1', () => fileOf('{}', Buffer.alloc(0), 2n ** 64n - 1n), 'SAFETENSORS_INVALID'],
  ['a claimed length of 99 MB', () => fileOf('{}', Buffer.alloc(0), 99_000_000n), 'SAFETENSORS_INVALID'],
  [
    'a length that ends amid the JSON',
    ({ bytes }) => fileOf(bytes.subarray(8), undefined, 100n),
    'SAFETENSORS_INVALID',
  ],
  ['an array', () => fileOf('[]'), 'SAFETENSORS_INVALID'],
  ['null', () => fileOf('null'), 'SAFETENSORS_INVALID'],
  ['an empty object', () => fileOf('{}'), 'VISION_FAMILY_UNKNOWN'],
  ['blanks only', () => fileOf(' '.repeat(64)), 'SAFETENSORS_INVALID'],
  ['a byte order mark', () => fileOf('\ufeff{}'), 'SAFETENSORS_INVALID'],
  ['bytes that are not UTF-8', () => fileOf(Buffer.from('{"\xff\xfe": 1}', 'latin1')), 'SAFETENSORS_INVALID'],
  ['JSON without an end', () => fileOf('{"a": {"dtype": "F16"'), 'SAFETENSORS_INVALID'],
  [
    'a hundred thousand nested lists',
    () => fileOf(`{"a": ${'['.repeat(1e5)}${']'.repeat(1e5)}}`),
    'SAFETENSORS_INVALID',
  ],
  ['a tensor called __proto__', () => fileOf('{"__proto__": {"dtype": "F16"}}'), 'SAFETENSORS_INVALID'],
  ['a name of 100,000 letters', () => fileOf(`{"${'n'.repeat(1e5)}": {}}`), 'SAFETENSORS_INVALID'],
  ['metadata that is a list', (model) => model.describedBy([]), 'SAFETENSORS_INVALID'],
  ['metadata that is not text', (model) => model.describedBy({ config: 7 }), 'SAFETENSORS_INVALID'],
  ['a configuration that is no JSON', (model) => model.describedBy({ config: '{' }), 'VISION_FAMILY_UNKNOWN'],
  ['a configuration of null', (model) => model.describedBy({ config: 'null' }), 'VISION_FAMILY_UNKNOWN'],
  ['a hidden size of 10^9', (model) => model.configuredBy({ hidden_size: 1e9 }), 'VISION_FAMILY_UNKNOWN'],
  ['no heads', (model) => model.configuredBy({ num_attention_heads: 0 }), 'VISION_FAMILY_UNKNOWN'],
  ['heads that do not divide', (model) => model.configuredBy({ num_attention_heads: 7 }), 'VISION_FAMILY_UNKNOWN'],
  ['patches above the picture', (model) => model.configuredBy({ patch_size: 200 }), 'VISION_FAMILY_UNKNOWN'],
  ['two hundred layers', (model) => model.configuredBy({ num_hidden_layers: 200 }), 'TENSOR_MISSING'],
  ['a picture of 4096 pixels', (model) => model.configuredBy({ image_size: 4096 }), 'VISION_FAMILY_UNKNOWN'],
  ['a picture of 512 pixels', (model) => model.configuredBy({ image_size: 512 }), 'TENSOR_INVALID'],
  ['a deviation of zero', (model) => model.configuredBy({ image_std: [0, 0.2, 0.2] }), 'VISION_FAMILY_UNKNOWN'],
  ['a huge deviation', (model) => model.configuredBy({ image_std: [1e30, 0.2, 0.2] }), 'VISION_FAMILY_UNKNOWN'],
  ['an absurd mean', (model) => model.configuredBy({ image_mean: [1e30, 0.5, 0.5] }), 'VISION_FAMILY_UNKNOWN'],
  ['a web page', () => Buffer.from('<!DOCTYPE html><html>login</html>'), 'MODEL_FORMAT_UNSUPPORTED'],
  ['a ZIP archive', () => Buffer.from('PK\x03\x04 and so on and on'), 'TORCH_INVALID'],
  ['a pickle', () => Buffer.from('\x80\x02}q\x00(X\x01\x00\x00\x00', 'latin1'), 'TORCH_INVALID'],
];

const offsets: readonly ModelCase[] = [
  ['below zero', (model) => model.saying(Q, { data_offsets: [-2, bytesOfQ - 2] }), 'SAFETENSORS_INVALID'],
  ['with a fraction', (model) => model.saying(Q, { data_offsets: [0.5, bytesOfQ + 0.5] }), 'SAFETENSORS_INVALID'],
  ['of text', (model) => model.saying(Q, { data_offsets: ['0', String(bytesOfQ)] }), 'SAFETENSORS_INVALID'],
  ['that end before they begin', (model) => model.saying(Q, { data_offsets: [bytesOfQ, 0] }), 'SAFETENSORS_INVALID'],
  ['that overlap', (model) => model.saying(Q, { data_offsets: [2, bytesOfQ + 2] }), 'SAFETENSORS_INVALID'],
  [
    'far beyond the file',
    (model) => model.saying(Q, { data_offsets: [2 ** 40, 2 ** 40 + bytesOfQ] }),
    'SAFETENSORS_INVALID',
  ],
  [
    'at the end of what a number can hold',
    (model) => model.saying(Q, { data_offsets: [Number.MAX_SAFE_INTEGER - bytesOfQ, Number.MAX_SAFE_INTEGER] }),
    'SAFETENSORS_INVALID',
  ],
  ['that span too little', (model) => model.saying(Q, { data_offsets: [0, 2] }), 'SAFETENSORS_INVALID'],
  ['of one number', (model) => model.saying(Q, { data_offsets: [0] }), 'SAFETENSORS_INVALID'],
  ['of three numbers', (model) => model.saying(Q, { data_offsets: [0, 1, bytesOfQ] }), 'SAFETENSORS_INVALID'],
  ['of null', (model) => model.saying(Q, { data_offsets: null }), 'SAFETENSORS_INVALID'],
  ['of 10^400', () => fileOf('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1e400]}}'), 'SAFETENSORS_INVALID'],
];

const dtypes: readonly ModelCase[] = [
  ['unknown', (model) => model.saying(Q, { dtype: 'F17' }), 'SAFETENSORS_INVALID'],
  ['in lower case', (model) => model.saying(Q, { dtype: 'f16' }), 'SAFETENSORS_INVALID'],
  ['of a number', (model) => model.saying(Q, { dtype: 16 }), 'SAFETENSORS_INVALID'],
  ['absent', (model) => model.saying(Q, { dtype: undefined }), 'SAFETENSORS_INVALID'],
  ['called __proto__', (model) => model.saying(Q, { dtype: '__proto__' }), 'SAFETENSORS_INVALID'],
  ['wider than the data', (model) => model.saying(Q, { dtype: 'F32' }), 'SAFETENSORS_INVALID'],
  ['of integers', (model) => model.saying(Q, { dtype: 'I16' }), 'TENSOR_INVALID'],
  ['of 8-bit scales', (model) => model.storing(Q, 'F8_E8M0', [WIDTH, WIDTH], 1), 'TENSOR_INVALID'],
  ['of 4-bit floats', (model) => model.storing(Q, 'F4', [WIDTH, WIDTH], 0.5), 'TENSOR_INVALID'],
  ['of doubles', (model) => model.storing(Q, 'F64', [WIDTH, WIDTH], 8), 'TENSOR_INVALID'],
  ['of truth values', (model) => model.storing(CLASS, 'BOOL', [WIDTH], 1), 'TENSOR_INVALID'],
  ['of complex numbers', (model) => model.storing(CLASS, 'C64', [WIDTH], 8), 'TENSOR_INVALID'],
];

const truncations: readonly ModelCase[] = [
  ['in its first length', ({ bytes }) => bytes.subarray(0, 5), 'SAFETENSORS_INVALID'],
  ['behind its first length', ({ bytes }) => bytes.subarray(0, 8), 'SAFETENSORS_INVALID'],
  ['in its header', ({ bytes, headerEnd }) => bytes.subarray(0, headerEnd >> 1), 'SAFETENSORS_INVALID'],
  ['behind its header', ({ bytes, headerEnd }) => bytes.subarray(0, headerEnd), 'SAFETENSORS_INVALID'],
  ['in its first tensor', ({ bytes, headerEnd }) => bytes.subarray(0, headerEnd + 3), 'SAFETENSORS_INVALID'],
  ['in the middle', ({ bytes }) => bytes.subarray(0, bytes.length >> 1), 'SAFETENSORS_INVALID'],
  ['by one byte', ({ bytes }) => bytes.subarray(0, -1), 'SAFETENSORS_INVALID'],
  ['not at all, but one byte too long', ({ bytes }) => Buffer.concat([bytes, Buffer.of(0)]), 'SAFETENSORS_INVALID'],
  ['not at all, but twice in one file', ({ bytes }) => Buffer.concat([bytes, bytes]), 'SAFETENSORS_INVALID'],
];

const missing: readonly ModelCase[] = [
  ['the class embedding', (model) => model.without(/class_embedding/), 'TENSOR_MISSING'],
  ['the patch embedding', (model) => model.without(/patch_embedding/), 'TENSOR_MISSING'],
  ['the positions', (model) => model.without(/position_embedding/), 'TENSOR_MISSING'],
  ['one weight of one layer', (model) => model.without(/layers\.0\.self_attn\.q_proj\.weight/), 'TENSOR_MISSING'],
  ['one bias of one layer', (model) => model.without(/layers\.1\.mlp\.fc2\.bias/), 'TENSOR_MISSING'],
  ['the last layer', (model) => model.without(/layers\.1\./), 'TENSOR_MISSING'],
  ['the first norm', (model) => model.without(/pre_layrnorm/), 'TENSOR_MISSING'],
  ['all but the projection', (model) => model.without(/vision_model/), 'TENSOR_MISSING'],
  ['everything', (model) => model.without(/./), 'TENSOR_MISSING'],
];

const shapes: readonly ModelCase[] = [
  ['transposed', (model) => model.saying(FC1, { shape: [WIDTH, WIDE] }), 'TENSOR_INVALID'],
  ['flattened', (model) => model.saying(Q, { shape: [WIDTH * WIDTH] }), 'TENSOR_INVALID'],
  ['with a side more', (model) => model.saying(CLASS, { shape: [1, WIDTH] }), 'TENSOR_INVALID'],
  ['with its last sides joined', (model) => model.saying(PATCHES, { shape: [WIDTH, 3, PATCH ** 2] }), 'TENSOR_INVALID'],
  ['of one position too many', (model) => model.storing(POSITIONS, 'F16', [18, WIDTH], 2), 'TENSOR_INVALID'],
  ['of a scalar', (model) => model.storing(CLASS, 'F16', [], 2), 'TENSOR_INVALID'],
  ['of nothing', (model) => model.storing(Q, 'F16', [0, WIDTH], 2), 'TENSOR_INVALID'],
  ['beyond all numbers', (model) => model.saying(Q, { shape: [2 ** 30, 2 ** 30] }), 'SAFETENSORS_INVALID'],
  ['of 2^53 nothings', (model) => model.saying(Q, { shape: [2 ** 52, 2 ** 52, 0] }), 'SAFETENSORS_INVALID'],
  ['below zero', (model) => model.saying(Q, { shape: [-WIDTH, -WIDTH] }), 'SAFETENSORS_INVALID'],
  ['with a fraction', (model) => model.saying(Q, { shape: [WIDTH / 0.5, WIDTH * 0.5 + 0.1] }), 'SAFETENSORS_INVALID'],
  ['of 33 sides', (model) => model.saying(Q, { shape: [...Array<number>(33).fill(1)] }), 'SAFETENSORS_INVALID'],
  ['of text', (model) => model.saying(Q, { shape: `${WIDTH}` }), 'SAFETENSORS_INVALID'],
];

describe.each([
  ['a header', headers],
  ['offsets', offsets],
  ['a dtype', dtypes],
  ['a file cut', truncations],
  ['a file that lacks', missing],
  ['a shape', shapes],
])('a model file with %s', (kind, cases) => {
  it('is tried in enough ways', () => {
    expect(cases.length).toBeGreaterThanOrEqual(LEAST);
  });

  it.each(cases.map((entry, i) => [...entry, i] as const))('%s is refused', async (_what, make, outcome, i) => {
    const name = `${kind.replaceAll(' ', '-')}-${i}.safetensors`;
    await writeFile(clipVision(name), make(sound));
    const response = await post(encodeUrl(name), serializeSafetensors({ image: goodImage }));
    expect(await outcomeOf(response)).toBe(outcome);
  });
});

type TorchCase = readonly [what: string, make: (bytes: Buffer) => Buffer, outcome: ErrorCode | 'features'];

const RUN = py.call(py.global('posix', 'system'), py.text('true'));
const tableOf = (value: Buffer): Buffer => py.pickle(py.dict([[py.text('w'), value]]));
const data = { 0: Buffer.alloc(16) };
/** The last place of these bytes. */
const lastOf = (bytes: Buffer, mark: string): number => bytes.lastIndexOf(Buffer.from(mark, 'latin1'));

const archives: readonly TorchCase[] = [
  ['that is sound', (bytes) => bytes, 'features'],
  ['cut in the middle', (bytes) => bytes.subarray(0, bytes.length >> 1), 'TORCH_INVALID'],
  ['cut by one byte', (bytes) => bytes.subarray(0, -1), 'TORCH_INVALID'],
  ['twice in one file', (bytes) => Buffer.concat([bytes, bytes]), 'TORCH_INVALID'],
  ['with bytes behind it', (bytes) => Buffer.concat([bytes, Buffer.alloc(100)]), 'TORCH_INVALID'],
  ['without its directory', (bytes) => bytes.subarray(0, bytes.indexOf('PK\x01\x02', 'latin1')), 'TORCH_INVALID'],
  [
    'whose directory lies',
    (bytes) => {
      const out = Buffer.from(bytes);
      out.writeUInt32LE(0x7ffffff0, lastOf(out, 'PK\x01\x02') + 42);
      return out;
    },
    'TORCH_INVALID',
  ],
  ['of something else', () => zipOf([{ name: 'word/document.xml', bytes: Buffer.from('<w/>') }]), 'TORCH_INVALID'],
  ['without tensors', () => archiveOf(py.pickle(py.dict([])), {}), 'VISION_FAMILY_UNKNOWN'],
  ['of another model', () => archiveOf(tableOf(pickledTensor()), data), 'VISION_FAMILY_UNKNOWN'],
];

const pickles: readonly TorchCase[] = [
  ['of old files that is sound', () => legacyTorchFileOf(...soundTensors()), 'features'],
  ['that runs a command', () => archiveOf(tableOf(RUN), data), 'PICKLE_REFUSED'],
  ['that runs a command and breaks off', () => archiveOf(tableOf(RUN).subarray(0, -2), data), 'PICKLE_REFUSED'],
  ['that runs a command, in no archive', () => py.pickle(RUN), 'PICKLE_REFUSED'],
  ['that runs a command, as text', () => Buffer.from("cos\nsystem\n(S'true'\ntR."), 'PICKLE_REFUSED'],
  ['of an unknown class', () => archiveOf(tableOf(py.call(py.global('a.b', 'C'))), data), 'PICKLE_REFUSED'],
  ['that ends early', () => archiveOf(tableOf(pickledTensor()).subarray(0, 30), data), 'TORCH_INVALID'],
  ['of a list', () => archiveOf(py.pickle(py.list()), {}), 'TORCH_INVALID'],
  ['of 10,000 marks', () => archiveOf(py.pickle(Buffer.from('('.repeat(10_000))), {}), 'TORCH_INVALID'],
  [
    'whose tensor leaves the file',
    () => archiveOf(tableOf(pickledTensor({ shape: [1 << 30] })), data),
    'TORCH_INVALID',
  ],
  ['whose strides leave it', () => archiveOf(tableOf(pickledTensor({ strides: [1 << 30, 1] })), data), 'TORCH_INVALID'],
  ['of old files cut off', () => legacyTorchFileOf(...soundTensors()).subarray(0, -1), 'TORCH_INVALID'],
];

function soundTensors(): [Record<string, Tensor>, Record<string, string>] {
  const { tensors, metadata } = parseSafetensors(sound.bytes);
  return [Object.fromEntries(tensors), Object.fromEntries(metadata)];
}

describe.each([
  ['an archive', archives],
  ['a pickle', pickles],
])('a PyTorch file with %s', (kind, cases) => {
  it('is tried in enough ways', () => {
    expect(cases.length).toBeGreaterThan(LEAST);
  });

  it.each(cases.map((entry, i) => [...entry, i] as const))('%s is answered', async (_what, make, outcome, i) => {
    const name = `${kind.replaceAll(' ', '-')}-${i}.bin`;
    await writeFile(clipVision(name), make(torchFileOf(...soundTensors())));
    const response = await post(encodeUrl(name), serializeSafetensors({ image: goodImage }));
    expect(await outcomeOf(response)).toBe(outcome);
  });
});

it('a folder in the place of a model file is no model', async () => {
  await mkdir(clipVision('folder.safetensors'));
  expect(await outcomeOf(await post(encodeUrl('folder.safetensors'), 'x'))).toBe('MODEL_NOT_FOUND');
});

it('a model without its projection gives no image embeds, and says so', async () => {
  await writeFile(clipVision('headless.safetensors'), sound.without(/visual_projection/));
  const body = serializeSafetensors({ image: goodImage });
  const asked = await post(`${encodeUrl('headless.safetensors')}&outputs=image_embeds`, body);
  expect(await outcomeOf(asked)).toBe('OUTPUT_UNAVAILABLE');
  expect(await outcomeOf(await post(encodeUrl('headless.safetensors'), body))).toBe('features');
});

interface SoundImages {
  readonly png: Buffer;
  readonly jpeg: Buffer;
  readonly webp: Buffer;
  readonly gif: Buffer;
  readonly tiff: Buffer;
  readonly avif: Buffer;
}

let images: SoundImages;
beforeAll(async () => {
  const picture = sharp(goodImage.data, { raw: { width: SIDE, height: SIDE + 8, channels: 3 } });
  images = {
    png: await picture.png().toBuffer(),
    jpeg: await picture.jpeg().toBuffer(),
    webp: await picture.webp().toBuffer(),
    gif: await picture.gif().toBuffer(),
    tiff: await picture.tiff().toBuffer(),
    avif: await picture.avif().toBuffer(),
  };
});

type ImageCase = readonly [
  what: string,
  make: (images: SoundImages) => Buffer,
  outcome: 'IMAGE_INVALID' | 'IMAGE_TOO_LARGE' | 'features' | 'either',
];

const half = (bytes: Buffer): Buffer => bytes.subarray(0, bytes.length >> 1);
/** A sound file with one stretch of its middle turned over. */
function damaged(bytes: Buffer): Buffer {
  const out = Buffer.from(bytes);
  for (let i = out.length >> 1; i < (out.length >> 1) + 16; i += 1) out[i] = ~(out[i] ?? 0);
  return out;
}
const svg = (attributes: string, content = ''): Buffer =>
  Buffer.from(
    `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ${attributes}>${content}</svg>`,
  );

const formats: readonly ImageCase[] = [
  ['no bytes', () => Buffer.alloc(0), 'IMAGE_INVALID'],
  ['text', () => Buffer.from('no picture'), 'IMAGE_INVALID'],
  ['a web page', () => Buffer.from('<!DOCTYPE html><html>login</html>'), 'IMAGE_INVALID'],
  ['zero bytes', () => Buffer.alloc(10_000), 'IMAGE_INVALID'],
  ['a PNG inside gzip', ({ png }) => gzipSync(png), 'IMAGE_INVALID'],
  ['a PDF', () => Buffer.from('%PDF-1.7\n1 0 obj\n<<>>\nendobj\n'), 'IMAGE_INVALID'],
  ['a safetensors file', () => Buffer.from(serializeSafetensors({ image: goodImage })), 'IMAGE_INVALID'],
  ['the signature of a PNG', ({ png }) => png.subarray(0, 8), 'IMAGE_INVALID'],
  ['half a PNG', ({ png }) => half(png), 'IMAGE_INVALID'],
  ['a damaged PNG', ({ png }) => damaged(png), 'IMAGE_INVALID'],
  ['a PNG without pixels', ({ png }) => Buffer.concat([png.subarray(0, 33), pngChunk('IEND', '')]), 'IMAGE_INVALID'],
  ['a PNG of an unknown colour type', () => pngClaiming({ width: 8, height: 8, colour: 5 }), 'IMAGE_INVALID'],
  ['a PNG of 3 bits', () => pngClaiming({ width: 8, height: 8, depth: 3 }), 'IMAGE_INVALID'],
  ['a PNG of an unknown interlacing', () => pngClaiming({ width: 8, height: 8, interlace: 9 }), 'IMAGE_INVALID'],
  ['a PNG with a palette that is absent', () => pngClaiming({ width: 8, height: 8, colour: 3 }), 'IMAGE_INVALID'],
  ['the first marker of a JPEG', () => Buffer.of(0xff, 0xd8, 0xff), 'IMAGE_INVALID'],
  ['half a JPEG', ({ jpeg }) => half(jpeg), 'IMAGE_INVALID'],
  ['half a WebP', ({ webp }) => half(webp), 'IMAGE_INVALID'],
  ['a WebP without pixels', () => webpOf(['VP8X', webpCanvas(8, 8)]), 'IMAGE_INVALID'],
  ['half a GIF', ({ gif }) => half(gif), 'IMAGE_INVALID'],
  ['a GIF without frames', () => gifClaiming(8, 8, 0), 'IMAGE_INVALID'],
  ['half a TIFF', ({ tiff }) => half(tiff), 'IMAGE_INVALID'],
  ['half an AVIF', ({ avif }) => half(avif), 'IMAGE_INVALID'],
  ['a damaged AVIF', ({ avif }) => damaged(avif), 'either'],
  ['an SVG that is no XML', () => Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="8"'), 'IMAGE_INVALID'],
  [
    'an SVG whose entities laugh a billion times',
    () =>
      Buffer.from(
        `<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a0 "ha">${Array.from(
          { length: 12 },
          (_none, i) => `<!ENTITY a${i + 1} "${`&a${i};`.repeat(10)}">`,
        ).join('')}]><svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><text>&a12;</text></svg>`,
      ),
    'IMAGE_INVALID',
  ],
  [
    'an SVG that uses itself in powers of ten',
    () =>
      svg(
        'width="8" height="8"',
        `<g id="g0"><rect width="1" height="1"/></g>${Array.from(
          { length: 12 },
          (_none, i) => `<g id="g${i + 1}">${`<use xlink:href="#g${i}"/>`.repeat(10)}</g>`,
        ).join('')}`,
      ),
    'IMAGE_INVALID',
  ],
  [
    'an SVG that reads a file of this machine',
    () => svg('width="8" height="8"', '<image xlink:href="file:///etc/passwd" width="8" height="8"/>'),
    'IMAGE_INVALID',
  ],
];

const sizes: readonly ImageCase[] = [
  ['a PNG of no pixels', () => pngClaiming({ width: 0, height: 0 }), 'IMAGE_INVALID'],
  ['a PNG of 2^31 - 1 squared', () => pngClaiming({ width: 2 ** 31 - 1, height: 2 ** 31 - 1 }), 'IMAGE_INVALID'],
  ['a PNG of 2^32 - 1 squared', () => pngClaiming({ width: 2 ** 32 - 1, height: 2 ** 32 - 1 }), 'IMAGE_INVALID'],
  ['a PNG of 50,000 squared', () => pngClaiming({ width: 50_000, height: 50_000 }), 'IMAGE_TOO_LARGE'],
  ['a PNG of 1 by 10^9', () => pngClaiming({ width: 1, height: 1e9 }), 'IMAGE_INVALID'],
  ['a PNG below the limit without its pixels', () => pngClaiming({ width: 9000, height: 9000 }), 'IMAGE_INVALID'],
  ['a JPEG of 65,500 squared', ({ jpeg }) => jpegClaiming(jpeg, 65_500, 65_500), 'IMAGE_TOO_LARGE'],
  ['a JPEG of 65,535 squared', ({ jpeg }) => jpegClaiming(jpeg, 65_535, 65_535), 'IMAGE_INVALID'],
  ['a JPEG of no height', ({ jpeg }) => jpegClaiming(jpeg, 64, 0), 'IMAGE_INVALID'],
  ['a GIF of one pixel on a canvas of 65,535 squared', () => gifClaiming(65_535, 65_535, 1), 'features'],
  ['a GIF whose frame is 65,535 squared', () => gifClaiming(65_535, 65_535, 1, 65_535), 'IMAGE_TOO_LARGE'],
  ['a GIF of 4000 frames of a megapixel', () => gifClaiming(1000, 1000, 4000), 'IMAGE_TOO_LARGE'],
  ['a WebP of 2^24 squared', () => webpOf(['VP8X', webpCanvas(2 ** 24, 2 ** 24)]), 'IMAGE_INVALID'],
  [
    'a WebP of 16,383 squared',
    ({ webp }) => webpOf(['VP8X', webpCanvas(16_383, 16_383)], ['VP8 ', webp.subarray(20)]),
    'either',
  ],
  ['a lossless WebP of 16,384 squared', () => webpOf(['VP8L', Buffer.from('2fffffff0f0000000000', 'hex')]), 'either'],
  ['an SVG of 10^9 squared', () => svg('width="1000000000" height="1000000000"'), 'IMAGE_INVALID'],
  ['an SVG of 30,000 squared', () => svg('width="30000" height="30000"'), 'IMAGE_INVALID'],
  ['an SVG of endless size', () => svg('width="1e999" height="1e999"'), 'IMAGE_INVALID'],
  ['a TIFF of 2^31 squared', () => tiffClaiming(2 ** 31, 2 ** 31), 'IMAGE_INVALID'],
  ['a TIFF of 60,000 squared', () => tiffClaiming(60_000, 60_000), 'IMAGE_TOO_LARGE'],
  ['a TIFF of 10,000 squared without its pixels', () => tiffClaiming(10_000, 10_000), 'IMAGE_INVALID'],
  ['a TIFF whose next page is itself', () => tiffClaiming(8, 8, 8), 'either'],
];

const jpegExif = (jpeg: Buffer, ...args: Parameters<typeof exifOf>): Buffer => jpegWith(jpeg, 0xe1, exifOf(...args));
const icc = (text: string): Buffer => Buffer.from(`icc\0\0${text}`, 'latin1');

const metadata: readonly ImageCase[] = [
  ['an EXIF orientation of 0', ({ jpeg }) => jpegExif(jpeg, [[0x112, 3, 1, 0]]), 'features'],
  ['an EXIF orientation of 65,535', ({ jpeg }) => jpegExif(jpeg, [[0x112, 3, 1, 65_535]]), 'features'],
  ['an EXIF orientation of 10^9 values', ({ jpeg }) => jpegExif(jpeg, [[0x112, 3, 1e9, 8]]), 'features'],
  ['EXIF whose next directory is itself', ({ jpeg }) => jpegExif(jpeg, [[0x112, 3, 1, 6]], 8), 'features'],
  ['EXIF whose inner directory is itself', ({ jpeg }) => jpegExif(jpeg, [[0x8769, 4, 1, 8]]), 'features'],
  ['EXIF of an unknown type', ({ jpeg }) => jpegExif(jpeg, [[0x112, 99, 2 ** 32 - 1, 2 ** 32 - 1]]), 'features'],
  [
    'EXIF that ends amid its directory',
    ({ jpeg }) => jpegWith(jpeg, 0xe1, exifOf([[0x112, 3, 1, 6]]).subarray(0, 20)),
    'features',
  ],
  [
    'EXIF of 5000 entries',
    ({ jpeg }) =>
      jpegExif(
        jpeg,
        Array.from({ length: 5000 }, () => [0x10e, 2, 1e8, 8]),
      ),
    'features',
  ],
  ['EXIF in a PNG that is none', ({ png }) => pngWith(png, pngChunk('eXIf', 'MM\0*\xff\xff\xff\xff')), 'features'],
  ['a JPEG segment of no length', ({ jpeg }) => jpegWith(jpeg, 0xe1, Buffer.alloc(0), 0), 'either'],
  ['a JPEG segment longer than the file', ({ jpeg }) => jpegWith(jpeg, 0xe1, Buffer.alloc(0), 65_535), 'IMAGE_INVALID'],
  ['a broken ICC profile in a PNG', ({ png }) => pngWith(png, pngChunk('iCCP', icc('no deflate'))), 'features'],
  [
    'an ICC profile of zeros in a PNG',
    ({ png }) => pngWith(png, pngChunk('iCCP', Buffer.concat([icc(''), deflateSync(Buffer.alloc(500))]))),
    'features',
  ],
  [
    'an ICC profile that unpacks to 100 MB',
    ({ png }) => pngWith(png, pngChunk('iCCP', Buffer.concat([icc(''), deflateSync(Buffer.alloc(1e8))]))),
    'features',
  ],
  [
    'a broken ICC profile in a JPEG',
    ({ jpeg }) => jpegWith(jpeg, 0xe2, Buffer.from('ICC_PROFILE\0\x05\x02rubbish', 'latin1')),
    'features',
  ],
  ['iTXt without its ends', ({ png }) => pngWith(png, pngChunk('iTXt', 'prompt')), 'features'],
  ['iTXt with a broken deflate', ({ png }) => pngWith(png, pngChunk('iTXt', 'prompt\0\x01\0\0\0nonsense')), 'features'],
  ['zTXt with a broken deflate', ({ png }) => pngWith(png, pngChunk('zTXt', 'prompt\0\0nonsense')), 'features'],
  ['zTXt of an unknown compression', ({ png }) => pngWith(png, pngChunk('zTXt', 'prompt\0\x07nonsense')), 'features'],
  [
    'zTXt that unpacks to 100 MB',
    ({ png }) =>
      pngWith(png, pngChunk('zTXt', Buffer.concat([Buffer.from('prompt\0\0'), deflateSync(Buffer.alloc(1e8))]))),
    'features',
  ],
  [
    '2000 text chunks',
    ({ png }) => pngWith(png, ...Array.from({ length: 2000 }, () => pngChunk('tEXt', 'a\0b'))),
    'either',
  ],
  ['a text chunk with a wrong checksum', ({ png }) => pngWith(png, pngChunk('tEXt', 'a\0b', 7)), 'either'],
  ['an unknown chunk that is said to matter', ({ png }) => pngWith(png, pngChunk('ABCD', 'x')), 'IMAGE_INVALID'],
  ['a gamma of zero', ({ png }) => pngWith(png, pngChunk('gAMA', Buffer.alloc(4))), 'features'],
  ['a density of zero', ({ png }) => pngWith(png, pngChunk('pHYs', Buffer.alloc(9))), 'features'],
  [
    'XMP that is no XML',
    ({ jpeg }) => jpegWith(jpeg, 0xe1, Buffer.from('http://ns.adobe.com/xap/1.0/\0<x')),
    'features',
  ],
  [
    'broken IPTC',
    ({ jpeg }) => jpegWith(jpeg, 0xed, Buffer.from('Photoshop 3.0\x008BIM\xff\xff', 'latin1')),
    'features',
  ],
  [
    'broken EXIF and ICC in a WebP',
    ({ webp }) =>
      webpOf(
        ['VP8X', webpCanvas(SIDE, SIDE + 8, 0x28)],
        ['ICCP', icc('x')],
        ['VP8 ', webp.subarray(20)],
        ['EXIF', tiffOf([], 8)],
      ),
    'features',
  ],
];

async function postImage(bytes: Buffer): Promise<string> {
  const form = new FormData();
  form.set('image', new Blob([Uint8Array.from(bytes)]), 'hostile.png');
  return outcomeOf(await post(encodeUrl(), form));
}

describe.each([
  ['image format', formats],
  ['image size', sizes],
  ['image metadata', metadata],
])('as %s', (_kind, cases) => {
  it('enough is tried', () => {
    expect(cases.length).toBeGreaterThanOrEqual(LEAST);
  });

  it.each(cases)('%s does no harm', async (_what, make, outcome) => {
    const bytes = make(images);
    expect(bytes.length).toBeLessThan(200_000); // bombs are small
    const got = await postImage(bytes);
    if (outcome === 'either') expect(['features', 'IMAGE_INVALID', 'IMAGE_TOO_LARGE']).toContain(got);
    else expect(got).toBe(outcome);
  });
});

const safetensors = serializeSafetensors;
const pixels = (shape: readonly number[], value = 0): Tensor =>
  f32Tensor(shape, new Float32Array(shape.reduce((product, side) => product * side, 1)).fill(value));
const levels = (shape: readonly number[]): Tensor =>
  u8Tensor(shape, new Uint8Array(shape.reduce((product, side) => product * side, 1)));

type BodyCase = readonly [what: string, body: Uint8Array, outcome: ErrorCode | 'features'];

const bodies: readonly BodyCase[] = [
  ['no bytes', Buffer.alloc(0), 'INVALID_REQUEST'],
  ['JSON', Buffer.from('{"image": [1, 2, 3]}'), 'SAFETENSORS_INVALID'],
  ['no tensors', safetensors({}), 'INVALID_REQUEST'],
  ['another tensor', safetensors({ picture: levels([1, 8, 8, 3]) }), 'INVALID_REQUEST'],
  [
    'an image of I32',
    safetensors({ image: { dtype: 'I32', shape: [1, 1, 1, 3], data: new Int32Array(3) } }),
    'INVALID_REQUEST',
  ],
  [
    'an image of F16',
    safetensors({ image: { dtype: 'F16', shape: [1, 1, 1, 3], data: new Uint16Array(3) } }),
    'INVALID_REQUEST',
  ],
  [
    'an image of F64',
    safetensors({ image: { dtype: 'F64', shape: [1, 1, 1, 3], data: new Float64Array(3) } }),
    'INVALID_REQUEST',
  ],
  [
    'an image of F4',
    fileOf('{"image":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}', Buffer.alloc(1)),
    'TENSOR_INVALID',
  ],
  ['pixel values of U8', safetensors({ pixel_values: levels([1, 3, SIDE, SIDE]) }), 'INVALID_REQUEST'],
  ['an image without a batch', safetensors({ image: levels([8, 8, 3]) }), 'INVALID_REQUEST'],
  ['an image of five channels', safetensors({ image: levels([1, 8, 8, 5]) }), 'INVALID_REQUEST'],
  ['an image of one channel', safetensors({ image: levels([1, 8, 8, 1]) }), 'features'],
  ['257 images', safetensors({ image: levels([257, 1, 1, 3]) }), 'INVALID_REQUEST'],
  ['257 pixel values', safetensors({ pixel_values: pixels([257, 3, SIDE, SIDE]) }), 'INVALID_REQUEST'],
  ['an image of no rows', safetensors({ image: levels([1, 0, 8, 3]) }), 'INVALID_REQUEST'],
  ['no image at all', safetensors({ image: levels([0, 8, 8, 3]) }), 'INVALID_REQUEST'],
  [
    'an image of 10^15 empty rows',
    fileOf('{"image":{"dtype":"U8","shape":[1,1000000000000000,0,3],"data_offsets":[0,0]}}'),
    'INVALID_REQUEST',
  ],
  [
    'an image larger than the body',
    fileOf('{"image":{"dtype":"U8","shape":[1,9000,9000,3],"data_offsets":[0,243000000]}}'),
    'SAFETENSORS_INVALID',
  ],
  ['pixel values of another size', safetensors({ pixel_values: pixels([1, 3, SIDE, SIDE + 1]) }), 'INVALID_REQUEST'],
  ['pixel values of no batch', safetensors({ pixel_values: pixels([0, 3, SIDE, SIDE]) }), 'INVALID_REQUEST'],
  ['pixel values without a batch', safetensors({ pixel_values: pixels([3, SIDE, SIDE]) }), 'INVALID_REQUEST'],
  ['an image of NaN', safetensors({ image: pixels([1, SIDE, SIDE, 3], NaN) }), 'INVALID_REQUEST'],
  ['an image of infinities', safetensors({ image: pixels([1, 8, 9, 3], Infinity) }), 'INVALID_REQUEST'],
  ['an image of 10^38', safetensors({ image: pixels([1, 8, 9, 3], -1e38) }), 'features'],
  ['an image of one row and a million columns', safetensors({ image: levels([1, 1, 1_000_000, 3]) }), 'features'],
  ['an image of a million rows and one column', safetensors({ image: levels([1, 1_000_000, 1, 3]) }), 'features'],
  ['an image of a million channels', safetensors({ image: levels([1, 1, 1, 1_000_000]) }), 'INVALID_REQUEST'],
];

describe('as a safetensors body', () => {
  it.each(bodies)('%s does no harm', async (_what, body, outcome) => {
    expect(await outcomeOf(await post(encodeUrl(), Uint8Array.from(body)))).toBe(outcome);
  });

  it('pixel values that are no numbers are refused by their index', async () => {
    const pixelValues = pixels([1, 3, SIDE, SIDE]);
    pixelValues.data[SIDE * SIDE * 2 + SIDE + 1] = NaN;
    const response = await post(encodeUrl(), serializeSafetensors({ pixel_values: pixelValues }));
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({
      error: { code: 'INVALID_REQUEST', message: expect.stringContaining('NaN at [0, 2, 1, 1]') as string },
    });
  });
});

describe('as a model name', () => {
  it.each([
    '../../../../etc/passwd',
    '..',
    '.',
    '/',
    '/etc/passwd',
    '\0',
    `${MODEL}\0.png`,
    '..\\..\\windows\\win.ini',
    'C:\\windows\\win.ini',
    '\\\\server\\share\\model.safetensors',
    'file:///etc/passwd',
    'https://example.com/model.safetensors',
    `${'a/'.repeat(3000)}b`,
    'n'.repeat(5000),
    '\n\r\t',
    '\ud800',
    '%2e%2e%2f%2e%2e%2fetc%2fpasswd',
    'constructor',
    '$(touch x)',
  ])('%j leads nowhere', async (name) => {
    const query = new URLSearchParams({ model: name }).toString();
    const outcome = await outcomeOf(await post(`/bridge/v1/encode?${query}`, safetensors({ image: goodImage })));
    expect(['MODEL_NOT_FOUND', 'INVALID_REQUEST', 'PATH_OUTSIDE_FOLDER']).toContain(outcome);
  });
});

describe('as a query', () => {
  it.each([
    '',
    '?',
    '?model=',
    '?model',
    `?model=${MODEL}&model=${MODEL}`,
    `?model[]=${MODEL}`,
    `?model=${MODEL}&crop=left`,
    `?model=${MODEL}&crop=center&crop=none`,
    `?model=${MODEL}&precision=int1`,
    `?model=${MODEL}&outputs=`,
    `?model=${MODEL}&outputs=__proto__`,
    `?model=${MODEL}&outputs=image_embeds,everything`,
    `?model=${MODEL}&outputs=${','.repeat(5000)}`,
    `?__proto__=${MODEL}`,
    '?model=%E0%A4%A',
    '?model=%',
  ])('%j is refused', async (query) => {
    const outcome = await outcomeOf(await post(`/bridge/v1/encode${query}`, safetensors({ image: goodImage })));
    expect(['INVALID_REQUEST', 'MODEL_NOT_FOUND']).toContain(outcome);
  });

  it('an output that the model does not have is refused', async () => {
    const response = await post(`${encodeUrl()}&outputs=mm_projected`, safetensors({ image: goodImage }));
    expect(await outcomeOf(response)).toBe('OUTPUT_UNAVAILABLE');
  });
});

const FORM = 'multipart/form-data; boundary=xyz';
const part = (head: string, content = 'x'): string => `--xyz\r\n${head}\r\n\r\n${content}\r\n`;
const filePart = (name: string): string => part(`Content-Disposition: form-data; name="image"; filename="${name}"`);

describe('as multipart', () => {
  it.each([
    ['no boundary', 'multipart/form-data', 'x'],
    ['a boundary of 300 letters', `multipart/form-data; boundary=${'b'.repeat(300)}`, 'x'],
    ['an empty boundary', 'multipart/form-data; boundary=', '--\r\n'],
    ['another boundary', 'multipart/form-data; boundary=abc', `${filePart('a.png')}--xyz--`],
    ['no body', FORM, ''],
    ['no part', FORM, '--xyz--\r\n'],
    ['rubbish', FORM, '\r\n\r\n\0\0\0--xy--xyz'],
    ['no end', FORM, filePart('a.png')],
    ['an end amid the head of a part', FORM, '--xyz\r\nContent-Disposition: form-da'],
    ['a part without a head', FORM, '--xyz\r\n\r\nx\r\n--xyz--\r\n'],
    ['a part without a name', FORM, `${part('Content-Disposition: form-data')}--xyz--\r\n`],
    ['a field in place of a file', FORM, `${part('Content-Disposition: form-data; name="image"')}--xyz--\r\n`],
    ['a field called __proto__', FORM, `${part('Content-Disposition: form-data; name="__proto__"')}--xyz--\r\n`],
    ['a head of 300 KB', FORM, `${part(`Content-Disposition: form-data; name="${'n'.repeat(3e5)}"`)}--xyz--\r\n`],
    ['a file called ../../x', FORM, `${filePart('../../x')}--xyz--\r\n`],
    ['a file whose name holds NUL', FORM, `${filePart('a\0b.png')}--xyz--\r\n`],
    ['1001 files', FORM, `${filePart('a.png').repeat(1001)}--xyz--\r\n`],
    ['2001 fields', FORM, `${part('Content-Disposition: form-data; name="f"').repeat(2001)}--xyz--\r\n`],
    ['another kind of multipart', 'multipart/mixed; boundary=xyz', `${filePart('a.png')}--xyz--\r\n`],
  ])('%s is refused', async (_what, type, body) => {
    const outcome = await outcomeOf(await post(encodeUrl(), body, { 'content-type': type }));
    expect(['INVALID_REQUEST', 'IMAGE_INVALID', 'SAFETENSORS_INVALID']).toContain(outcome);
  });
});

/** A request whose headers fetch would not send: status and body of the answer. */
function rawPost(headers: Record<string, string>, body: string): Promise<Response> {
  return new Promise((resolve, reject) => {
    const call = httpRequest(started.url + encodeUrl(), { method: 'POST', headers, timeout: PATIENCE_MS }, (answer) => {
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.on('end', () => {
        resolve(new Response(Buffer.concat(chunks), { status: answer.statusCode ?? 0 }));
      });
      answer.on('error', reject);
    });
    call.on('error', reject);
    call.on('timeout', () => call.destroy(new Error('no answer')));
    call.end(body);
  });
}

describe('as size', () => {
  const tooLarge = Buffer.alloc(UPLOAD_LIMIT_MB * 1024 * 1024 + 1);

  it('a body above the limit is refused', async () => {
    const response = await post(encodeUrl(), tooLarge);
    expect(response.status).toBe(413);
    expect(await outcomeOf(response)).toBe('BODY_TOO_LARGE');
  });

  it('a file above the limit in a form is refused', async () => {
    const form = new FormData();
    form.set('image', new Blob([tooLarge]), 'large.png');
    const response = await post(encodeUrl(), form);
    expect(response.status).toBe(413);
    expect(await outcomeOf(response)).toBe('BODY_TOO_LARGE');
  });

  it('a body without a length that never stops growing is refused', async () => {
    const endless = new ReadableStream<Uint8Array>({
      pull(controller) {
        controller.enqueue(new Uint8Array(65_536));
      },
    });
    const call = fetch(started.url + encodeUrl(), {
      method: 'POST',
      body: endless,
      duplex: 'half',
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    // The answer may come, or the connection may be cut while the body is still on its way; either ends the request.
    const outcome = await call.then(outcomeOf, (error: unknown) => (error as Error).name);
    expect(['BODY_TOO_LARGE', 'TypeError']).toContain(outcome);
  });

  it.each([
    ['a claimed length of 10^15', { 'content-length': String(1e15) }],
    ['a claimed length of 10^30', { 'content-length': `1${'0'.repeat(30)}` }],
  ])('%s is refused before the body comes', async (_what, headers) => {
    const response = await rawPost(headers, 'x');
    expect(response.status).toBeGreaterThanOrEqual(400);
    expect(response.status).toBeLessThan(500);
    expect(['BODY_TOO_LARGE', 'INVALID_REQUEST']).toContain(await outcomeOf(response));
  });

  it('an expectation that nobody knows is refused', async () => {
    const response = await rawPost({ expect: 'a miracle' }, 'x');
    expect(response.status).toBe(417);
    expect(await outcomeOf(response)).toBe('INVALID_REQUEST');
  });
});

describe('as HTTP', () => {
  const head = `POST ${encodeUrl()} HTTP/1.1\r\nHost: HOST\r\n`;

  it.each([
    ['rubbish', '\0\x01\x02\x03\r\n\r\n'],
    ['a TLS greeting', '\x16\x03\x01\x02\0\x01\0\x01\xfc'],
    ['a request without a host', `POST ${encodeUrl()} HTTP/1.1\r\nContent-Length: 0\r\n\r\n`],
    ['two lengths', `${head}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx`],
    ['a length and chunks', `${head}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`],
    ['a broken chunk', `${head}Transfer-Encoding: chunked\r\n\r\nzz\r\nx`],
    ['a length below zero', `${head}Content-Length: -1\r\n\r\n`],
    ['heads of 100 KB', `${head}X: ${'x'.repeat(1e5)}\r\n\r\n`],
    ['a path that is no text', `GET /bridge/v1/%C3%28%00%ff HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n`],
    ['an answer', 'HTTP/1.1 200 OK\r\n\r\n'],
  ])('%s is answered with 4xx or cut off', async (_what, text) => {
    const answer = await new Promise<string>((resolve, reject) => {
      const [host = '', port = ''] = started.host.split(':');
      const socket = connect(Number(port), host, () => {
        socket.write(text.replaceAll('HOST', started.host), 'latin1');
      });
      let received = '';
      socket.setTimeout(PATIENCE_MS, () => socket.destroy(new Error('no answer')));
      socket.on('data', (data) => (received += data.toString('latin1')));
      socket.on('error', reject);
      socket.on('close', () => {
        resolve(received);
      });
    });
    expect(answer).toMatch(/^$|^HTTP\/1\.1 4\d\d /);
  });

  it('a caller who leaves amid the body does no harm', async () => {
    const [host = '', port = ''] = started.host.split(':');
    await new Promise<void>((resolve) => {
      const socket = connect(Number(port), host, () => {
        socket.write(`${head.replaceAll('HOST', started.host)}Content-Length: 1000\r\n\r\nxx`, () => {
          socket.destroy();
        });
      });
      socket.on('close', () => {
        resolve();
      });
    });
  });
});
