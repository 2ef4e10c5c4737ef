/** The server over the wire: events, answers while it works, bad input, and stopping. */
import { mkdir, readdir, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import WebSocket from 'ws';
import { createBridge } from '../../src/bridge.js';
import { ComfyClient, type ComfyEvent } from '../../src/cli/demo/client.js';
import { silentLogger } from '../../src/common/logger.js';
import { parseConfig } from '../../src/config.js';
import { parseSafetensors, serializeSafetensors } from '../../src/formats/index.js';
import { startServer } from '../../src/server/index.js';
import { u8Tensor } from '../../src/tensor/tensor.js';
import { presetConfig, writeRandomModel } from '../../src/vision/index.js';
import { encodeWorkflow, startTestBridge, type TestBridge } from '../support/bridge.js';

let started: TestBridge;
beforeAll(async () => {
  started = await startTestBridge();
});
afterAll(() => started[Symbol.asyncDispose]());

const get = (path: string): Promise<Response> => fetch(started.url + path);
const post = (path: string, body: unknown): Promise<Response> =>
  fetch(started.url + path, { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body) });
const clipVision = (name: string): string => join(started.tree.root, 'models', 'clip_vision', name);

async function upload(name: string): Promise<string> {
  await using client = await ComfyClient.connect(started.url);
  return await client.uploadImage(name, started.tree.picture);
}

describe('a prompt', () => {
  it("sends ComfyUI's events in ComfyUI's order, and answers from the cache the second time", async () => {
    const image = await upload('order.png');
    await using client = await ComfyClient.connect(started.url);
    const run = async (): Promise<string[]> => {
      const events: ComfyEvent[] = [];
      await client.run(encodeWorkflow(image), (event) => events.push(event));
      return events
        .filter(({ type }) => type !== 'progress_state')
        .map(({ type, data }) =>
          type === 'executing' || type === 'executed' ? `${type} ${String(data['node'])}` : type,
        );
    };
    expect(await run()).toEqual([
      'status',
      'status',
      'execution_start',
      'execution_cached',
      'executing 1',
      'executing 5',
      'executed 5',
      'executing 2',
      'executing 3',
      'executing 4',
      'executed 4',
      'execution_success',
      'status',
      'executing null',
    ]);
    const again = await run();
    expect(again.slice(0, 4)).toEqual(['status', 'status', 'execution_start', 'execution_cached']);
    expect(again.slice(4, 6).toSorted()).toEqual(['executed 4', 'executed 5']); // outputs are in no defined order
    expect(again.slice(6)).toEqual(['execution_success', 'status', 'executing null']);
  });

  it('is served under /api as well, and its features are those of /bridge/v1/encode', async () => {
    const image = await upload('same.png');
    await using client = await ComfyClient.connect(started.url);
    const id = await client.run(encodeWorkflow(image), () => undefined);
    const history = (await (await get(`/api/history/${id}`)).json()) as Record<
      string,
      { outputs: Record<string, { features?: { filename: string; subfolder: string; type: string }[] }> }
    >;
    const [file] = history[id]?.outputs['4']?.features ?? [];
    expect(file?.filename).toMatch(/^features_\d{5}_\.safetensors$/);
    const saved = parseSafetensors(await client.view(file ?? { filename: '', subfolder: '', type: '' }));
    const form = new FormData();
    form.set('image', new Blob([started.tree.picture]), 'same.png');
    const response = await fetch(`${started.url}/bridge/v1/encode?model=CLIP-ViT-H-demo.safetensors`, {
      method: 'POST',
      body: form,
    });
    expect(response.headers.get('content-type')).toBe('application/vnd.safetensors');
    const direct = parseSafetensors(new Uint8Array(await response.arrayBuffer()));
    expect(direct.tensors.get('image_embeds')).toEqual(saved.tensors.get('image_embeds'));
    expect([...direct.tensors.keys()]).toEqual([...saved.tensors.keys()]);
  });

  it('keeps seeds beyond 2^53 and the order of nodes', async () => {
    const body =
      '{"prompt": {"9": {"class_type": "PreviewAny", "inputs": {"source": 18446744073709551615}}, "1": {"class_type": "PreviewAny", "inputs": {"source": 1}}}}';
    const { prompt_id: id } = (await (await post('/prompt', body)).json()) as { prompt_id: string };
    let text = '{}';
    while (text === '{}') text = await (await get(`/history/${id}`)).text();
    expect(text).toContain('"source": 18446744073709551615');
    expect(text).toContain('["18446744073709551615"]');
    expect(text.indexOf('"9": {"class_type"')).toBeLessThan(text.indexOf('"1": {"class_type"'));
  });
});

describe('while an encode runs', () => {
  it('GET /queue answers within 50 ms and a websocket ping is answered', async () => {
    const preset = presetConfig('CLIP-ViT-H');
    if (preset === undefined) throw new Error('no preset');
    await writeRandomModel(
      clipVision('busy.safetensors'),
      { ...preset.config, hiddenSize: 512, heads: 8, layers: 8, intermediateSize: 2048 },
      { withConfig: true },
    );
    const images = u8Tensor([12, 224, 224, 3], new Uint8Array(12 * 224 * 224 * 3).fill(99));
    const encode = fetch(`${started.url}/bridge/v1/encode?model=busy.safetensors&outputs=image_embeds`, {
      method: 'POST',
      headers: { 'content-type': 'application/vnd.safetensors' },
      body: serializeSafetensors({ image: images }),
    });
    const progress = { isDone: false };
    void encode.finally(() => {
      progress.isDone = true;
    });
    const socket = new WebSocket(`${started.url.replace('http', 'ws')}/ws`);
    await new Promise((resolve) => socket.once('open', resolve));
    const queueTimes: number[] = [];
    const pingTimes: number[] = [];
    while (!progress.isDone) {
      const begin = performance.now();
      await (await get('/queue')).text();
      queueTimes.push(performance.now() - begin);
      const pinged = performance.now();
      socket.ping();
      await new Promise((resolve) => socket.once('pong', resolve));
      pingTimes.push(performance.now() - pinged);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    socket.close();
    expect((await encode).status).toBe(200);
    // The encode must have been long enough to say something.
    expect(queueTimes.length).toBeGreaterThan(10);
    const p90 = (times: number[]): number =>
      times.toSorted((a, b) => a - b)[Math.floor(times.length * 0.9)] ?? Infinity;
    expect(p90(queueTimes)).toBeLessThan(50);
    expect(p90(pingTimes)).toBeLessThan(50);
  });

  it('a caller who goes away cancels it, and the next encode works', async () => {
    const images = u8Tensor([200, 224, 224, 3], new Uint8Array(200 * 224 * 224 * 3));
    const controller = new AbortController();
    const encode = fetch(`${started.url}/bridge/v1/encode?model=busy.safetensors&outputs=image_embeds`, {
      method: 'POST',
      body: serializeSafetensors({ image: images }),
      signal: controller.signal,
    });
    while (started.bridge.inference.state.pendingCalls === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    controller.abort();
    await expect(encode).rejects.toThrow();
    const form = new FormData();
    form.set('image', new Blob([started.tree.picture]), 'next.png');
    const begin = performance.now();
    const next = await fetch(`${started.url}/bridge/v1/encode?model=CLIP-ViT-H-demo.safetensors`, {
      method: 'POST',
      body: form,
    });
    expect(next.status).toBe(200);
    // 200 images take many seconds; the rest of them were not run.
    expect(performance.now() - begin).toBeLessThan(5000);
  });
});

/** One output node only, so that nothing good remains. */
function withoutPreview(workflow: ReturnType<typeof encodeWorkflow>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(workflow).filter(([id]) => id !== '5'));
}

describe('bad input', () => {
  /** Runs a workflow to its error. */
  async function failureOf(workflow: Record<string, unknown>): Promise<Record<string, unknown>> {
    await using client = await ComfyClient.connect(started.url);
    const events: ComfyEvent[] = [];
    await client.run(workflow, (event) => events.push(event)).catch(() => undefined);
    return events.find(({ type }) => type === 'execution_error')?.data ?? {};
  }

  async function expectNextRequestWorks(): Promise<void> {
    await using client = await ComfyClient.connect(started.url);
    const image = await client.uploadImage('good.png', started.tree.picture);
    await client.run(encodeWorkflow(image), () => undefined);
  }

  const header = (entries: object, length?: number): Buffer => {
    const json = Buffer.from(JSON.stringify(entries));
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(length ?? json.length));
    return Buffer.concat([size, json]);
  };

  it.each([
    ['html.safetensors', Buffer.from('<!DOCTYPE html><html>login</html>'), /web page/],
    ['lfs.safetensors', Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:00'), /Git LFS pointer/],
    ['empty.safetensors', Buffer.alloc(0), /it is empty/],
    ['absurd.safetensors', header({}, 2 ** 40), /limit is 100000000/],
    [
      'foreign.safetensors',
      header({ 'lora_unet.lora_down.weight': { dtype: 'F16', shape: [0], data_offsets: [0, 0] } }),
      /it is a LoRA/,
    ],
    [
      'text.safetensors',
      header({ 'text_model.x': { dtype: 'F16', shape: [0], data_offsets: [0, 0] } }),
      /text encoder/,
    ],
  ])(
    'a model file that is none (%s) is one clear message, and the next request works',
    async (name, bytes, message) => {
      const image = await upload('for-bad-model.png');
      await writeFile(clipVision(name), bytes);
      const failure = await failureOf(encodeWorkflow(image, name));
      expect(failure['exception_message']).toMatch(message);
      expect(failure['exception_message']).toContain(name);
      expect(failure['node_type']).toBe('CLIPVisionLoader');
      await expectNextRequestWorks();
    },
  );

  it('a truncated model file says so', async () => {
    const image = await upload('for-truncated.png');
    const preset = presetConfig('CLIP-ViT-L');
    if (preset === undefined) throw new Error('no preset');
    await writeRandomModel(
      clipVision('truncated.safetensors'),
      { ...preset.config, hiddenSize: 64, heads: 1, layers: 2, intermediateSize: 64 },
      { withConfig: true },
    );
    await truncate(clipVision('truncated.safetensors'), 100_000);
    const failure = await failureOf(encodeWorkflow(image, 'truncated.safetensors'));
    expect(failure['exception_message']).toMatch(/truncated download/);
    await expectNextRequestWorks();
  });

  it('an image that is no image names it, with the type that clients of ComfyUI know', async () => {
    await mkdir(join(started.tree.root, 'input'), { recursive: true });
    await writeFile(join(started.tree.root, 'input', 'broken.png'), 'no picture');
    const failure = await failureOf(encodeWorkflow('broken.png'));
    expect(failure).toMatchObject({ exception_type: 'PIL.UnidentifiedImageError', node_id: '1' });
    expect(failure['exception_message']).toContain('broken.png');
    await expectNextRequestWorks();
  });

  it.each([
    ['an unknown node', { '1': { class_type: 'KSampler', inputs: {} } }, /node KSampler does not exist/],
    ['a link to nowhere', { '1': { class_type: 'PreviewAny', inputs: { source: ['7', 0] } } }, /'7'/],
    [
      'a missing model',
      withoutPreview(encodeWorkflow('good.png', 'nowhere.safetensors')),
      /nowhere.safetensors' not in \[/,
    ],
    ['no output node', { '1': { class_type: 'LoadImage', inputs: { image: 'good.png' } } }, /Prompt has no outputs/],
    [
      'a cycle',
      {
        '1': { class_type: 'CLIPVisionEncode', inputs: { clip_vision: ['1', 0], image: ['1', 0], crop: 'none' } },
        '2': { class_type: 'VisionBridgeSaveFeatures', inputs: { features: ['1', 0], filename_prefix: 'x' } },
      },
      /mismatch|cycle/,
    ],
  ])('%s is refused with 400 before anything runs', async (_what, prompt, message) => {
    await upload('good.png');
    const response = await post('/prompt', { prompt });
    expect(response.status).toBe(400);
    expect(await response.text()).toMatch(message);
    await expectNextRequestWorks();
  });

  it.each([
    ['POST', '/prompt', '{"prompt": '],
    ['POST', '/prompt', 'null'],
    ['POST', '/queue', '{"delete": null}'],
    ['POST', '/bridge/v1/encode', ''],
    ['POST', '/bridge/v1/encode?model=../../etc/passwd', ''],
    ['POST', '/bridge/v1/encode?model=/etc/passwd', ''],
    ['POST', '/bridge/v1/encode?model=CLIP-ViT-H-demo.safetensors', 'no tensors'],
    ['POST', '/bridge/v1/encode?model=CLIP-ViT-H-demo.safetensors&crop=left', ''],
    ['GET', '/history?max_items=x', undefined],
  ])('%s %s with a bad body or query is a 4xx with a code and a message', async (method, path, body) => {
    const response = await fetch(started.url + path, { method, ...(body === undefined ? {} : { body }) });
    expect(response.status).toBeGreaterThanOrEqual(400);
    expect(response.status).toBeLessThan(500);
    expect(await response.json()).toMatchObject({
      error: { code: expect.stringMatching(/^[A-Z_]+$/) as string, message: expect.stringMatching(/\w{3}/) as string },
    });
  });

  it.each(['../secret.txt', 'a/../../secret.txt', '/etc/passwd', 'x [input]/../../secret.txt'])(
    '/view does not leave its folder for %s',
    async (name) => {
      await writeFile(join(started.tree.root, 'secret.txt'), 'secret');
      const response = await get(`/view?filename=${encodeURIComponent(name)}`);
      expect([400, 403, 404]).toContain(response.status);
      expect(await response.text()).not.toContain('secret');
    },
  );

  it('an upload keeps to its folder, and gets a new name when another file has it', async () => {
    const send = async (name: string, content: string, fields: Record<string, string> = {}): Promise<Response> => {
      const form = new FormData();
      form.set('image', new Blob([content]), name);
      for (const [key, value] of Object.entries(fields)) form.set(key, value);
      return fetch(`${started.url}/upload/image`, { method: 'POST', body: form });
    };
    expect(await (await send('up.bin', 'one')).json()).toEqual({ name: 'up.bin', subfolder: '', type: 'input' });
    expect(await (await send('up.bin', 'one')).json()).toMatchObject({ name: 'up.bin' });
    expect(await (await send('up.bin', 'two')).json()).toMatchObject({ name: 'up (1).bin' });
    expect((await send('../../evil.bin', 'x')).status).toBe(400);
    expect(await (await send('not/a/folder/evil.bin', 'x')).json()).toMatchObject({ name: 'evil.bin' });
    expect(await (await send('C:\\fakepath\\odd.bin', 'x')).json()).toMatchObject({ name: 'odd.bin' });
    expect((await send('up.bin', 'x', { subfolder: '../..' })).status).toBe(400);
    expect((await send('up.bin', 'x', { type: 'elsewhere' })).status).toBe(400);
    expect(await readdir(join(started.tree.root, 'input'))).toContain('evil.bin');
  });
});

describe('the guard', () => {
  const status = async (headers: Record<string, string>): Promise<number> => {
    const { request } = await import('node:http');
    return new Promise((resolve, reject) => {
      const call = request(`${started.url}/queue`, { headers }, (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      });
      call.on('error', reject);
      call.end();
    });
  };

  it.each([
    ['its own origin', (host: string) => ({ origin: `http://${host}` }), 200],
    ['another port of this machine', () => ({ origin: 'http://127.0.0.1:1' }), 403],
    ['another site', () => ({ origin: 'https://evil.example' }), 403],
    ['Origin: null', () => ({ origin: 'null' }), 403],
    ['a rebound host name', () => ({ host: 'evil.example' }), 403],
    ['a rebound host with its origin', () => ({ host: 'evil.example', origin: 'http://evil.example' }), 403],
  ])('answers %s with %s', async (_what, headers, expected) => {
    expect(await status(headers(started.host))).toBe(expected);
  });

  it('wants its token on every request and websocket', async () => {
    await using guarded = await startTestBridge({ token: 'a long secret' });
    expect((await fetch(`${guarded.url}/queue`)).status).toBe(401);
    expect((await fetch(`${guarded.url}/queue`, { headers: { authorization: 'Bearer a long secret' } })).status).toBe(
      200,
    );
    const opens = (query: string): Promise<boolean> =>
      new Promise((resolve) => {
        const socket = new WebSocket(`${guarded.url.replace('http', 'ws')}/ws${query}`);
        socket.once('open', () => {
          socket.close();
          resolve(true);
        });
        socket.once('error', () => {
          resolve(false);
        });
      });
    expect(await opens('')).toBe(false);
    expect(await opens('?token=a%20long%20secret')).toBe(true);
  });

  it('does not listen beyond loopback without a token', async () => {
    await expect(startTestBridge({ listen: '0.0.0.0' })).rejects.toThrow(/--token/);
  });
});

describe('TLS and CORS', () => {
  it('serves HTTPS with a key and a certificate', async () => {
    const file = (name: string): string => new URL(`../support/tls/${name}.pem`, import.meta.url).pathname;
    await using secure = await startTestBridge({ tlsKeyfile: file('key'), tlsCertfile: file('cert') });
    expect(secure.url).toMatch(/^https:/);
    const { get: getSecure } = await import('node:https');
    const { readFile } = await import('node:fs/promises');
    const ca = await readFile(file('cert'));
    const status = await new Promise((resolve, reject) => {
      getSecure(`${secure.url}/queue`, { ca }, (response) => {
        response.resume();
        resolve(response.statusCode);
      }).on('error', reject);
    });
    expect(status).toBe(200);
  });

  it('sends the configured origin, and answers preflights, with --enable-cors-header', async () => {
    await using open = await startTestBridge({ enableCorsHeader: 'https://app.example' });
    const response = await fetch(`${open.url}/queue`, { headers: { origin: 'https://app.example' } });
    expect(response.status).toBe(200);
    expect(response.headers.get('access-control-allow-origin')).toBe('https://app.example');
    const preflight = await fetch(`${open.url}/prompt`, {
      method: 'OPTIONS',
      headers: { origin: 'https://app.example' },
    });
    expect(preflight.status).toBe(200);
    expect(preflight.headers.get('access-control-allow-methods')).toContain('POST');
  });
});

describe('starting and stopping', () => {
  it('says which port is in use and what to do', async () => {
    const { port } = started.server;
    await expect(startTestBridge({ port })).rejects.toMatchObject({
      code: 'PORT_IN_USE',
      message: expect.stringContaining(`Port ${port}`) as string,
    });
  });

  it('reports every error of every configuration file, with its place', async () => {
    await using other = await startTestBridge();
    const broken = join(other.tree.root, 'extra_model_paths.yaml');
    await writeFile(broken, 'a:\n  loras: [x]\nb:\n  base_path: ~\n');
    const attempt = createBridge(
      parseConfig({ comfyui: other.tree.root, dataDirectory: other.tree.dataDirectory }),
      silentLogger,
    );
    await expect(attempt).rejects.toMatchObject({
      code: 'PATHS_CONFIG_INVALID',
      message: expect.stringMatching(/yaml:2:10: loras is a list[\s\S]*yaml:4:14: base_path is null/) as string,
    });
  });

  it('ends what runs and frees its port', async () => {
    const other = await startTestBridge();
    const form = new FormData();
    form.set('image', new Blob([other.tree.picture]), 'a.png');
    await fetch(`${other.url}/bridge/v1/encode?model=CLIP-ViT-H-demo.safetensors`, { method: 'POST', body: form });
    const { pid } = other.bridge.inference.state;
    expect(pid).toBeDefined();
    await other[Symbol.asyncDispose]();
    expect(() => process.kill(pid ?? 0, 0)).toThrow();
    await expect(fetch(`${other.url}/queue`)).rejects.toThrow();
  });

  it('serves an encoder through a link, and writes nothing beside it', async () => {
    await symlink(clipVision('CLIP-ViT-H-demo.safetensors'), clipVision('linked.safetensors'));
    const before = await readdir(clipVision(''));
    const form = new FormData();
    form.set('image', new Blob([started.tree.picture]), 'a.png');
    const response = await fetch(`${started.url}/bridge/v1/encode?model=linked.safetensors`, {
      method: 'POST',
      body: form,
    });
    expect(response.status).toBe(200);
    expect(await readdir(clipVision(''))).toEqual(before);
  });

  it('is closed twice without harm', async () => {
    const tree = await startTestBridge();
    const second = await startServer(tree.bridge);
    await second[Symbol.asyncDispose]();
    await second[Symbol.asyncDispose]();
    await tree[Symbol.asyncDispose]();
  });
});
