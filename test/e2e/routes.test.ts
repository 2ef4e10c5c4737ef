/** The routes of ComfyUI's protocol, asked over HTTP. */
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { request as httpRequest } from 'node:http';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import WebSocket from 'ws';
import { startTestBridge, type TestBridge } from '../support/bridge.js';
import { REFERENCE_ROUTES } from '../support/reference-routes.js';

let started: TestBridge;
beforeAll(async () => {
  started = await startTestBridge();
});
afterAll(async () => {
  await started[Symbol.asyncDispose]();
});

const ask = (path: string, init: RequestInit = {}): Promise<Response> => fetch(started.url + path, init);
const json = async (path: string): Promise<unknown> => (await ask(path)).json();
const post = (path: string, body?: unknown): Promise<Response> =>
  ask(path, { method: 'POST', ...(body === undefined ? {} : { body: JSON.stringify(body) }) });

interface RawAnswer {
  readonly status: number;
  readonly headers: Record<string, string | string[] | undefined>;
  readonly body: Buffer;
}

/** A request whose headers fetch would not send. */
const raw = (url: string, headers: Record<string, string> = {}, method = 'GET'): Promise<RawAnswer> =>
  new Promise((resolve, reject) => {
    const call = httpRequest(url, { headers, method }, (response) => {
      const parts: Buffer[] = [];
      response.on('data', (part: Buffer) => parts.push(part));
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(parts) });
      });
    });
    call.on('error', reject);
    call.end();
  });

describe('the table of routes', () => {
  const paths = REFERENCE_ROUTES.flatMap(({ method, path, once }) =>
    (once === true ? [path] : [path, `/api${path}`]).map((full) => [method, full] as const),
  );

  it.each(paths)('has %s %s', async (method, path) => {
    // A path that is none of ours tells GET,HEAD to any other method; one of ours names what it takes.
    const { headers, status } = await raw(started.url + path, {}, method === 'PATCH' ? 'PUT' : 'PATCH');
    expect(status).toBe(405);
    expect(String(headers['allow']).split(',')).toContain(method);
    if (method === 'GET') {
      const answer = await ask(path);
      // ComfyUI itself answers 404 without a body where a file or name is missing; an unknown path has this type.
      if (answer.status === 404) expect(answer.headers.get('content-type')).not.toBe('application/octet-stream');
    }
  });

  it('has no /internal below /api, and tells so of unknown paths', async () => {
    expect((await ask('/api/internal/logs')).status).toBe(404);
    expect((await ask('/nope')).headers.get('content-type')).toBe('application/octet-stream');
    const refused = await ask('/nope', { method: 'POST' });
    expect([refused.status, refused.headers.get('allow')]).toEqual([405, 'GET,HEAD']);
    expect((await ask('/queue/')).status).toBe(404);
  });
});

describe('settings and user files', () => {
  it('keeps integers beyond 2^53, and every one of many writes at once', async () => {
    await ask('/settings/seed', { method: 'POST', body: '18446744073709551615' });
    await Promise.all(Array.from({ length: 40 }, (_none, i) => post(`/api/settings/many.${i}`, i)));
    const text = await (await ask('/settings')).text();
    expect(text).toContain('"seed": 18446744073709551615');
    expect(Object.keys(JSON.parse(text) as object).filter((key) => key.startsWith('many.'))).toHaveLength(40);
  });

  it.each(['..%2Fsecret', '..%252Fsecret', '%2Fetc%2Fpasswd', 'a%2F..%2F..%2Fsecret'])(
    'stores and reads nothing at %s',
    async (name) => {
      expect((await ask(`/userdata/${name}`, { method: 'POST', body: 'x' })).status).toBe(403);
      expect((await ask(`/userdata/${name}`)).status).toBe(403);
      expect((await ask(`/userdata/${name}`, { method: 'DELETE' })).status).toBe(403);
    },
  );

  it('does not follow a link that leads out of the folder', async () => {
    const root = join(started.bridge.directories.user, 'default');
    await mkdir(root, { recursive: true });
    await writeFile(join(started.tree.root, 'outside.txt'), 'secret');
    await symlink(started.tree.root, join(root, 'link'));
    expect((await ask('/userdata/link%2Foutside.txt')).status).toBe(403);
    expect((await ask('/userdata/link%2Fnew.txt', { method: 'POST', body: 'x' })).status).toBe(403);
  });

  it('serves scripts of users as bytes, and user.css as a style sheet', async () => {
    for (const name of ['a.html', 'a.js', 'user.css']) await ask(`/userdata/${name}`, { method: 'POST', body: 'x' });
    const type = async (name: string): Promise<string | null> =>
      (await ask(`/userdata/${name}`)).headers.get('content-type');
    expect(await type('a.html')).toBe('application/octet-stream');
    expect(await type('a.js')).toBe('application/octet-stream');
    expect(await type('user.css')).toBe('text/css; charset=utf-8');
  });

  it('separates users with --multi-user, and refuses unknown ones', async () => {
    await using many = await startTestBridge({ multiUser: true });
    const create = (username: string): Promise<Response> =>
      fetch(`${many.url}/users`, { method: 'POST', body: JSON.stringify({ username }) });
    const id = (await (await create('Ann Lee')).json()) as string;
    expect(id).toMatch(/^Ann-Lee_[0-9a-f-]{36}$/);
    expect((await create('Ann Lee')).status).toBe(400);
    const as = (user: string): RequestInit => ({ headers: { 'comfy-user': user } });
    expect((await fetch(`${many.url}/settings`, { ...as(id), method: 'POST', body: '{"k": 1}' })).status).toBe(200);
    expect(await (await fetch(`${many.url}/settings`, as(id))).json()).toEqual({ k: 1 });
    for (const user of ['nobody', '..', 'default', '__proto__'])
      expect((await fetch(`${many.url}/settings`, as(user))).status).toBe(401);
    expect((await fetch(`${many.url}/userdata?dir=.`, as('..'))).status).toBe(403);
  });
});

describe('/view and masks', () => {
  const picture = async (name: string, channels: 3 | 4): Promise<void> => {
    const background = { r: 200, g: 100, b: 50, ...(channels === 4 ? { alpha: 0.5 } : {}) };
    await mkdir(started.bridge.directories.output, { recursive: true });
    await sharp({ create: { width: 9, height: 7, channels, background } })
      .png()
      .toFile(join(started.bridge.directories.output, name));
  };

  it('encodes again, drops alpha and shows it', async () => {
    await picture('half.png', 4);
    const decode = async (query: string): Promise<{ format: string; pixel: number[] }> => {
      const bytes = Buffer.from(await (await ask(`/view?filename=half.png&${query}`)).arrayBuffer());
      const { data } = await sharp(bytes).raw().toBuffer({ resolveWithObject: true });
      const { format, channels } = await sharp(bytes).metadata();
      return { format, pixel: [...data.subarray(0, channels)] };
    };
    expect(await decode('preview=webp;90')).toMatchObject({ format: 'webp', pixel: { length: 4 } });
    expect(await decode('preview=jpeg')).toMatchObject({ format: 'jpeg', pixel: { length: 3 } });
    expect(await decode('channel=rgb')).toEqual({ format: 'png', pixel: [200, 100, 50] });
    expect(await decode('channel=a')).toEqual({ format: 'png', pixel: [0, 0, 0, 128] });
  });

  it('puts the alpha of a mask on the original and keeps its texts', async () => {
    await picture('base.png', 3);
    const base = join(started.bridge.directories.output, 'base.png');
    const plain = await readFile(base);
    const text = Buffer.from('prompt\0{"1": 2}', 'latin1');
    const chunk = Buffer.alloc(text.length + 12);
    chunk.writeUInt32BE(text.length, 0);
    chunk.write('tEXt', 4, 'latin1');
    text.copy(chunk, 8);
    const { crc32 } = await import('node:zlib');
    chunk.writeUInt32BE(crc32(chunk.subarray(4, 8 + text.length)), 8 + text.length);
    await writeFile(base, Buffer.concat([plain.subarray(0, 33), chunk, plain.subarray(33)]));
    const mask = await sharp({
      create: { width: 9, height: 7, channels: 4, background: { r: 0, g: 0, b: 0, alpha: 0.25 } },
    })
      .png()
      .toBuffer();
    const send = (reference: string): Promise<Response> => {
      const form = new FormData();
      form.set('image', new Blob([mask]), 'masked.png');
      form.set('original_ref', reference);
      return fetch(`${started.url}/upload/mask`, { method: 'POST', body: form });
    };
    expect(await (await send('{"filename": "base.png"}')).json()).toEqual({
      name: 'masked.png',
      subfolder: '',
      type: 'input',
    });
    const stored = await readFile(join(started.bridge.directories.input, 'masked.png'));
    const { data } = await sharp(stored).raw().toBuffer({ resolveWithObject: true });
    expect([...data.subarray(0, 4)]).toEqual([200, 100, 50, 64]);
    expect(stored.includes(chunk)).toBe(true);
    for (const bad of ['{"filename": "absent.png"}', '{"filename": "../../x"}', 'no json', '{}'])
      expect((await send(bad)).status).toBe(400);
  });
});

describe('limits and headers', () => {
  it('refuses a body that is too large before it reads it, on every route', async () => {
    await using small = await startTestBridge({ maxUploadSize: 1 });
    const body = 'x'.repeat(1024 * 1024 + 1);
    for (const path of ['/prompt', '/userdata/a', '/settings', '/upload/image'])
      expect((await raw(small.url + path, { 'content-length': String(body.length) }, 'POST')).status).toBe(413);
    const form = new FormData();
    for (const name of ['a', 'b']) form.append(name, new Blob(['x'.repeat(600 * 1024)]), name);
    expect((await fetch(`${small.url}/upload/image`, { method: 'POST', body: form })).status).toBe(413);
  });

  it('compresses JSON with --enable-compress-response-body, for clients that take it', async () => {
    await using packed = await startTestBridge({ enableCompressResponseBody: true });
    const plain = await raw(`${packed.url}/object_info`);
    const small = await raw(`${packed.url}/object_info`, { 'accept-encoding': 'gzip' });
    expect([plain.headers['content-encoding'], small.headers['content-encoding']]).toEqual([undefined, 'gzip']);
    expect(gunzipSync(small.body).equals(plain.body)).toBe(true);
  });

  it('refuses what a page of another site asks, but lets a link open the index page', async () => {
    const cross = { 'sec-fetch-site': 'cross-site' };
    expect((await raw(`${started.url}/queue`, cross)).status).toBe(403);
    const navigation = { ...cross, 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' };
    expect((await raw(`${started.url}/`, navigation)).status).toBe(200);
    expect((await raw(`${started.url}/view?filename=x`, navigation)).status).toBe(403);
  });

  it('gives a page that was opened with the token a cookie in its place', async () => {
    await using guarded = await startTestBridge({ token: 'a long secret' });
    const opened = await raw(`${guarded.url}/?token=a%20long%20secret`);
    const [cookie = ''] = String(opened.headers['set-cookie']).split(';');
    expect((await raw(`${guarded.url}/queue`, { cookie })).status).toBe(200);
    expect((await raw(`${guarded.url}/queue`, { cookie: 'vision_bridge_token=wrong' })).status).toBe(401);
    expect(guarded.bridge.logs.entries.map(({ m }) => m).join('')).not.toContain('secret');
  });
});

describe('the front end', () => {
  it('serves the files of --front-end-root and nothing beside them', async () => {
    const root = join(started.tree.root, 'web');
    await mkdir(join(root, 'extensions', 'core'), { recursive: true });
    await writeFile(join(root, 'index.html'), '<html>front</html>');
    await writeFile(join(root, 'extensions', 'core', 'a.js'), 'export {};');
    await writeFile(join(started.tree.root, 'beside.txt'), 'secret');
    await using served = await startTestBridge({ frontEndRoot: root });
    for (const path of ['/', '/api/']) {
      const page = await fetch(served.url + path);
      expect([await page.text(), page.headers.get('cache-control')]).toEqual(['<html>front</html>', 'no-cache']);
    }
    expect(await (await fetch(`${served.url}/extensions`)).json()).toEqual(['/extensions/core/a.js']);
    expect((await fetch(`${served.url}/extensions/core/a.js`)).headers.get('content-type')).toMatch(/javascript/);
    for (const path of [
      '/..%2Fbeside.txt',
      '/%2e%2e/beside.txt',
      '/extensions/..%2f..%2fbeside.txt',
      '/..%5Cbeside.txt',
    ])
      expect((await raw(served.url + path)).status).toBe(404);
  });

  it('is told of no templates where their package is missing, and of its own where it brings them', async () => {
    const root = join(started.tree.root, 'web-alone');
    await mkdir(root, { recursive: true });
    await writeFile(join(root, 'index.html'), '');
    await using served = await startTestBridge({ frontEndRoot: root });
    const list = `${served.url}/templates/index.json`;
    expect(await (await fetch(list)).json()).toEqual([]);
    await mkdir(join(root, 'templates'));
    await writeFile(join(root, 'templates', 'index.json'), '[{"moduleName": "own"}]');
    expect(await (await fetch(list)).json()).toEqual([{ moduleName: 'own' }]);
    expect((await ask('/templates/index.json')).status).toBe(404); // without a front end nobody asks
  });

  it('does not ask the internet for releases of ComfyUI: no paid nodes are served', async () => {
    expect(await json('/system_stats')).toMatchObject({ system: { argv: ['vision-bridge', '--disable-api-nodes'] } });
  });

  it('is found in the Python environment of the ComfyUI', async () => {
    const { tree } = started;
    const site = join(tree.root, 'venv', 'lib', 'python3.12', 'site-packages', 'comfyui_frontend_package', 'static');
    await mkdir(site, { recursive: true });
    await writeFile(join(site, 'index.html'), 'found');
    await using served = await startTestBridge({ comfyui: tree.root, dataDirectory: join(tree.root, 'data2') });
    expect(await (await fetch(served.url)).text()).toBe('found');
  });

  it('is replaced by a page that says what runs, where there is none', async () => {
    expect(await (await ask('/')).text()).toContain('<code>CLIPVisionEncode</code>');
  });
});

describe('logs', () => {
  it('go to the clients that asked for them', async () => {
    const socket = new WebSocket(`${started.url.replace('http', 'ws')}/ws?clientId=reader`);
    const types: string[] = [];
    socket.on('message', (data: Buffer) => types.push((JSON.parse(data.toString()) as { type: string }).type));
    await new Promise((resolve) => socket.once('message', resolve));
    const subscribe = (enabled: boolean): Promise<Response> =>
      ask('/internal/logs/subscribe', { method: 'PATCH', body: JSON.stringify({ clientId: 'reader', enabled }) });
    await subscribe(true);
    started.bridge.logger.info({ part: 1 }, 'a line for readers');
    await subscribe(false);
    started.bridge.logger.info({}, 'a line for nobody');
    await expect.poll(() => types).toContain('logs');
    expect(types.filter((type) => type === 'logs')).toHaveLength(1);
    expect(await json('/internal/logs')).toContain(' - a line for readers (part: 1)\n');
    socket.terminate();
  });
});

describe('the newer dialect', () => {
  it('says of assets that they are switched off; the older one knows no such route', async () => {
    await using newer = await startTestBridge({ dialect: 'latest' });
    for (const [method, path] of [
      ['GET', '/api/assets?limit=1'],
      ['POST', '/api/assets'],
      ['DELETE', '/api/assets/9f2c1f2e-0000-4000-8000-000000000000/tags'],
      ['GET', '/api/api/tags'],
    ] as const) {
      const response = await fetch(newer.url + path, { method });
      expect(response.status).toBe(503);
      expect(await response.json()).toMatchObject({ error: { code: 'SERVICE_DISABLED', details: {} } });
    }
    expect((await fetch(`${newer.url}/api/assets/hash/blake3:00`, { method: 'HEAD' })).status).toBe(503);
    expect(await (await fetch(`${newer.url}/features`)).json()).toMatchObject({
      assets: false,
    });
    expect((await ask('/api/assets')).status).toBe(404);
  });

  it('asks for canonical ids, names missing nodes, keeps the time of acceptance, lists jobs', async () => {
    await using newer = await startTestBridge({ dialect: 'latest' });
    const submit = async (body: unknown): Promise<{ status: number; body: Record<string, unknown> }> => {
      const response = await fetch(`${newer.url}/prompt`, { method: 'POST', body: JSON.stringify(body) });
      return { status: response.status, body: (await response.json()) as Record<string, unknown> };
    };
    await mkdir(newer.bridge.directories.input, { recursive: true });
    await writeFile(join(newer.bridge.directories.input, 'in.png'), newer.tree.picture);
    const image = { class_type: 'LoadImage', inputs: { image: 'in.png' } };
    const prompt = { '1': image, '2': { class_type: 'PreviewImage', inputs: { images: ['1', 0] } } };
    expect(await submit({ prompt, prompt_id: 'mine' })).toMatchObject({
      status: 400,
      body: { error: { type: 'invalid_prompt_id' } },
    });
    expect(await submit({ prompt: { '1': { class_type: 'Nope', inputs: {}, _meta: { title: 'T' } } } })).toMatchObject({
      status: 400,
      body: {
        error: {
          type: 'missing_node_type',
          message: "Node 'T' not found. The custom node may not be installed.",
          extra_info: { node_id: '1', class_type: 'Nope', node_title: 'T' },
        },
      },
    });
    const id = '0000000a-0000-4000-8000-00000000000a';
    const before = Date.now();
    expect((await submit({ prompt, prompt_id: id })).status).toBe(200);
    const jobsOf = async (query: string): Promise<{ jobs: Record<string, unknown>[]; pagination: unknown }> =>
      (await (await fetch(`${newer.url}/api/jobs${query}`)).json()) as never;
    await expect.poll(async () => (await jobsOf('?status=completed')).jobs.length).toBe(1);
    const { jobs, pagination } = await jobsOf('');
    expect(jobs[0]).toMatchObject({
      id,
      status: 'completed',
      outputs_count: 1,
      preview_output: { nodeId: '2', mediaType: 'images' },
    });
    expect(jobs[0]?.['create_time']).toBeGreaterThanOrEqual(before);
    expect(pagination).toEqual({ offset: 0, limit: null, total: 1, has_more: false });
    const history = (await (await fetch(`${newer.url}/history/${id}`)).json()) as Record<
      string,
      { prompt: { create_time?: number }[] }
    >;
    expect(history[id]?.prompt[3]?.create_time).toBe(jobs[0]?.['create_time']);
    expect(await (await fetch(`${newer.url}/api/jobs/${id}`)).json()).toMatchObject({
      id,
      execution_status: { completed: true },
    });
    expect(await (await fetch(`${newer.url}/api/jobs/${id}/cancel`, { method: 'POST' })).json()).toEqual({
      cancelled: false,
    });
    expect((await fetch(`${newer.url}/api/jobs?limit=0`)).status).toBe(400);
    const stats = (await (await fetch(`${newer.url}/system_stats`)).json()) as { system: { comfyui_version: string } };
    expect(stats.system.comfyui_version).not.toBe('0.3.64');
  });
});
