/** Single nodes over HTTP, as the ComfyUI pack calls them. */
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import WebSocket from 'ws';
import { parseSafetensors, serializeSafetensors } from '../../src/formats/index.js';
import { f32Tensor, type F32Tensor, type Tensor } from '../../src/tensor/tensor.js';
import { startTestBridge, type TestBridge } from '../support/bridge.js';
import { seededRandom } from '../support/random.js';

const MODEL = 'CLIP-ViT-H-demo.safetensors';

let started: TestBridge;
beforeAll(async () => {
  started = await startTestBridge({ featureStore: false });
});
afterAll(() => started[Symbol.asyncDispose]());

interface Answer {
  readonly status: number;
  readonly outputs: unknown[];
  readonly ui: Record<string, unknown[]> | undefined;
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly error: { code: string; message: string; details: Record<string, unknown> } | undefined;
}

async function call(node: string, inputs: object, tensors: Record<string, Tensor> = {}, query = ''): Promise<Answer> {
  const body = serializeSafetensors(tensors, { inputs: JSON.stringify(inputs) });
  const response = await fetch(`${started.url}/bridge/v1/nodes/${node}${query}`, { method: 'POST', body });
  const bytes = Buffer.from(await response.arrayBuffer());
  if (!response.ok) {
    const { error } = JSON.parse(bytes.toString()) as { error: NonNullable<Answer['error']> };
    return { status: response.status, outputs: [], ui: undefined, tensors: new Map(), error };
  }
  const document = parseSafetensors(bytes);
  const json = (key: string): unknown => JSON.parse(document.metadata.get(key) ?? 'null');
  return {
    status: response.status,
    outputs: json('outputs') as unknown[],
    ui: (json('ui') ?? undefined) as Answer['ui'],
    tensors: document.tensors,
    error: undefined,
  };
}

function noise(shape: number[], seed: number): F32Tensor {
  const random = seededRandom(seed);
  const length = shape.reduce((product, side) => product * side, 1);
  return f32Tensor(
    shape,
    Float32Array.from({ length }, () => random()),
  );
}

const image = noise([2, 40, 60, 3], 1);
const encodeInputs = { clip_name: MODEL, image: { kind: 'image' }, crop: 'center', precision: 'comfy' };
const encode = (query = '', pictures = image): Promise<Answer> =>
  call('VisionBridgeEncode', encodeInputs, { 'input.image.tensor': pictures }, query);

/** Features of an answer as inputs of the next call. */
function asInput(name: string, answer: Answer): Record<string, Tensor> {
  return Object.fromEntries([...answer.tensors].map(([key, t]) => [key.replace('output.0', `input.${name}`), t]));
}

describe('a node call', () => {
  it('gives the features of /bridge/v1/encode', async () => {
    const answer = await encode();
    expect(answer.outputs).toEqual([{ kind: 'features' }]);
    const response = await fetch(`${started.url}/bridge/v1/encode?model=${MODEL}`, {
      method: 'POST',
      body: serializeSafetensors({ image }),
    });
    const direct = parseSafetensors(Buffer.from(await response.arrayBuffer())).tensors;
    expect([...answer.tensors.keys()].sort()).toEqual([...direct.keys()].map((name) => `output.0.${name}`).sort());
    for (const [name, tensor] of direct) expect(answer.tensors.get(`output.0.${name}`)).toEqual(tensor);
  });

  it('takes and gives handles that say by themselves what they stand for', async () => {
    const loaded = await call('CLIPVisionLoader', { clip_name: MODEL });
    expect(loaded.outputs).toMatchObject([
      { kind: 'clip_vision', folder: 'clip_vision', name: MODEL, image_size: 224, layers: 4, projection_dim: 128 },
    ]);
    const tensors = { 'input.image.tensor': image };
    const [handle] = loaded.outputs as [{ identity: string }];
    const inputs = { clip_vision: handle, image: { kind: 'image' }, crop: 'center' };
    const answer = await call('CLIPVisionEncode', inputs, tensors);
    expect(answer.tensors.get('output.0.image_embeds')).toEqual((await encode()).tensors.get('output.0.image_embeds'));
    const stale = { ...inputs, clip_vision: { ...handle, identity: '1-1' } };
    expect((await call('CLIPVisionEncode', stale, tensors)).error).toMatchObject({
      code: 'INVALID_REQUEST',
      message: `clip_vision: ${MODEL} was replaced since it was loaded; load it again.`,
    });
    for (const name of ['../../../etc/passwd', '/etc/passwd']) {
      const foreign = { ...inputs, clip_vision: { ...handle, name } };
      expect((await call('CLIPVisionEncode', foreign, tensors)).status).toBeGreaterThanOrEqual(400);
    }
  });

  it('tells progress to the client that is named, under the id of the call, and to nobody else', async () => {
    const open = async (id: string): Promise<{ socket: WebSocket; seen: Record<string, unknown>[] }> => {
      const socket = new WebSocket(`${started.url.replace('http', 'ws')}/ws?clientId=${id}`);
      const seen: Record<string, unknown>[] = [];
      socket.on('message', (data: Buffer, isBinary) => {
        if (!isBinary) seen.push(JSON.parse(data.toString()) as Record<string, unknown>);
      });
      await once(socket, 'open');
      return { socket, seen };
    };
    const caller = await open('pack');
    const other = await open('other');
    // Pictures that are known already are not encoded again, and tell nothing.
    await encode('?call_id=call-7&client_id=pack', noise([2, 40, 60, 3], 71));
    await encode('', noise([2, 40, 60, 3], 72)); // without a client: told to nobody
    await new Promise((resolve) => setTimeout(resolve, 50));
    const progress = caller.seen.filter(({ type }) => type === 'progress');
    // How many pictures a run takes is found by measurement.
    expect(progress.at(-1)?.['data']).toEqual({ value: 2, max: 2, prompt_id: 'call-7', node: 'call-7' });
    expect(other.seen.map(({ type }) => type)).toEqual(['status']);
    caller.socket.close();
    other.socket.close();
  });

  it('is cancelled by closing the request', async () => {
    const many = noise([150, 224, 224, 3], 3);
    const body = serializeSafetensors({ 'input.image.tensor': many }, { inputs: JSON.stringify(encodeInputs) });
    const request = httpRequest(`${started.url}/bridge/v1/nodes/VisionBridgeEncode`, { method: 'POST' });
    request.on('error', () => undefined);
    request.end(body);
    const inference = started.bridge.inference;
    while (inference.state.pendingCalls === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    request.destroy();
    const begun = Date.now();
    while (inference.state.pendingCalls > 0) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(Date.now() - begun).toBeLessThan(2000);
    expect((await encode()).status).toBe(200);
  });

  it('answers a wrong one with the code and what would be right', async () => {
    const cases: [string, object, Record<string, Tensor>, number, string][] = [
      ['NoSuchNode', {}, {}, 404, 'has no node "NoSuchNode"'],
      [
        'VisionBridgeEncode',
        { clip_name: MODEL, crop: 'center', precision: 'comfy' },
        {},
        400,
        'needs the input image',
      ],
      ['VisionBridgeEncode', encodeInputs, {}, 400, 'image: an F32 tensor with 4 dimensions'],
      ['VisionBridgeEncode', { ...encodeInputs, crop: 'left' }, { 'input.image.tensor': image }, 400, 'center, none'],
      ['VisionBridgeEncode', { ...encodeInputs, more: 1 }, { 'input.image.tensor': image }, 400, 'has no input more'],
      ['VisionBridgeEncode', encodeInputs, { 'input.image.tensor': image, stray: image }, 400, '"stray" belongs to no'],
      ['VisionBridgeEncode', { ...encodeInputs, image: { kind: 'mask' } }, {}, 400, 'image: a value of kind "image"'],
      ['VisionBridgeEncode', { ...encodeInputs, image: 5 }, {}, 400, 'an object with a "kind"'],
      ['VisionBridgeLoadFeatures', { file: '../x.safetensors' }, {}, 400, 'leads out of its folder'],
      ['VisionBridgeLoadFeatures', { file: 'none.safetensors' }, {}, 404, 'no model file'],
    ];
    for (const [node, inputs, tensors, status, text] of cases) {
      const answer = await call(node, inputs, tensors);
      expect([answer.status, answer.error?.message]).toEqual([status, expect.stringContaining(text)]);
    }
    const response = await fetch(`${started.url}/bridge/v1/nodes/VisionBridgeEncode`, { method: 'POST', body: 'text' });
    expect(response.status).toBe(422);
  });
});

describe('nodes on features', () => {
  it('save and load them unchanged', async () => {
    const features = await encode();
    const inputs = { features: { kind: 'features' }, filename_prefix: 'kept/of %year%' };
    const saved = await call('VisionBridgeSaveFeatures', inputs, asInput('features', features));
    const [file] = saved.ui?.['features'] as [{ filename: string; subfolder: string }];
    const loaded = await call('VisionBridgeLoadFeatures', { file: `${file.subfolder}/${file.filename} [output]` });
    expect(loaded.tensors).toEqual(features.tensors);
    const outside = await call(
      'VisionBridgeSaveFeatures',
      { ...inputs, filename_prefix: '../x' },
      asInput('features', features),
    );
    expect(outside).toMatchObject({ status: 400, error: { details: { exception_type: 'Exception' } } });
    const foreign = serializeSafetensors({ weight: f32Tensor([1], new Float32Array(1)) });
    await writeFile(join(started.bridge.directories.input, 'foreign.safetensors'), foreign);
    expect((await call('VisionBridgeLoadFeatures', { file: 'foreign.safetensors' })).error?.code).toBe(
      'TENSOR_MISSING',
    );
  });

  it('compare images: an image is like itself, and the gate passes the value that the caller kept', async () => {
    const features = await encode();
    const tensors = { ...asInput('features_a', features), ...asInput('features_b', features) };
    const inputs = {
      features_a: { kind: 'features' },
      features_b: { kind: 'features' },
      compare: 'image embeds',
      score_of: 'mean of best',
    };
    const answer = await call('VisionBridgeSimilarity', inputs, tensors);
    const [score, picture, values] = answer.outputs as [number, object, string];
    expect(score).toBeCloseTo(1, 5);
    expect(picture).toEqual({ kind: 'image' });
    expect(answer.tensors.get('output.1.tensor')?.shape).toEqual([1, 64, 64, 3]);
    const rows = JSON.parse(values) as number[][];
    expect(rows[0]?.[1]).toBeCloseTo(rows[1]?.[0] ?? 0, 6);
    expect(rows[0]?.[1]).toBeLessThan(0.9999);

    const gated = { ...inputs, value: { kind: 'opaque' } };
    const open = await call('VisionBridgeGate', { ...gated, threshold: 0.9 }, tensors);
    expect(open.outputs).toEqual([
      { kind: 'passed', input: 'value' },
      { kind: 'blocked', message: null },
      expect.closeTo(1, 5),
      true,
    ]);
    const shut = await call('VisionBridgeGate', { ...gated, threshold: 1, score_of: 'lowest' }, tensors);
    expect(shut.outputs.slice(0, 2)).toEqual([
      { kind: 'blocked', message: null },
      { kind: 'passed', input: 'value' },
    ]);
  });

  it('draw patches: a patch is most like itself, and components use the whole range of colours', async () => {
    const features = await encode();
    const tensors = asInput('features', features);
    const inputs = { features: { kind: 'features' }, state: 'last_hidden_state', x: 0.5, y: 0, side: 32, rows: 0 };
    const alike = await call('VisionBridgePatchMap', { ...inputs, view: 'similarity to a patch' }, tensors);
    const map = alike.tensors.get('output.0.tensor');
    expect(map?.shape).toEqual([2, 32, 32, 3]);
    expect(alike.tensors.get('output.1.tensor')?.shape).toEqual([2, 32, 32]);
    expect(map?.data[16 * 3]).toBeCloseTo(1, 5);
    const colours = await call('VisionBridgePatchMap', { ...inputs, view: 'principal components' }, tensors);
    const values = (colours.tensors.get('output.0.tensor') as F32Tensor).data;
    expect([values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))]).toEqual([0, 1]);
  });
});
