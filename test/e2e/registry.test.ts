/** The registry over HTTP and from the command line, against a real server. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { startTestBridge, type TestBridge } from '../support/bridge.js';
import { CLIP_H, ipAdapter, kohyaLora, writeSparseModel } from '../support/model-files.js';

let test: TestBridge;
const main = new URL('../../src/cli/main.ts', import.meta.url).pathname;

beforeAll(async () => {
  test = await startTestBridge();
  const models = join(test.tree.root, 'models');
  await writeSparseModel(join(models, 'loras/a style.safetensors'), kohyaLora(4, 8), {
    'modelspec.title': 'Style',
    'modelspec.trigger_phrase': 'in style, portrait',
    ss_base_model_version: 'sdxl_base_v1-0',
  });
  await writeSparseModel(join(models, 'clip_vision/h.safetensors'), CLIP_H);
  await writeSparseModel(join(models, 'ipadapter/x.safetensors'), ipAdapter(768, 'plus', 1280));
  await mkdir(join(models, 'vae'), { recursive: true });
  await writeFile(join(models, 'vae/page.safetensors'), '<html>no such file</html>');
});
afterAll(async () => {
  await test[Symbol.asyncDispose]();
});

const get = async (path: string): Promise<{ status: number; body: Record<string, unknown> }> => {
  const response = await fetch(`${test.url}${path}`);
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
};

describe('over HTTP', () => {
  it('answers statistics at once, and complete ones to a caller that waits', async () => {
    const { body: early } = await get('/bridge/v1/stats');
    expect(early['scan']).toHaveProperty('state');
    const { body } = await get('/bridge/v1/stats?by=kind&wait=true');
    const groups = body['groups'] as { group: string; files: number }[];
    expect(Object.fromEntries(groups.map(({ group, files }) => [group, files]))).toMatchObject({
      lora: 1,
      ipadapter: 1,
      unknown: 1,
    });
  });

  it('lists models by what they are, with the fields that were asked for', async () => {
    const { body } = await get('/bridge/v1/models?kind=lora&fields=name,base,triggerWords&wait=true');
    expect(body).toMatchObject({
      total: 1,
      models: [{ name: 'a style.safetensors', base: 'sdxl', triggerWords: ['in style', 'portrait'] }],
    });
  });

  it('tells everything about one file, and hashes it when it is asked to', async () => {
    const path = '/loras/a%20style.safetensors';
    const { body } = await get(`/bridge/v1/models${path}`);
    expect(body).toMatchObject({ kind: 'lora', rank: 8, details: { facts: { title: 'Style' } }, hashes: null });
    const hashes = await fetch(`${test.url}/bridge/v1/hash${path}`, { method: 'POST' });
    expect(await hashes.json()).toMatchObject({ sha256: expect.stringMatching(/^[0-9a-f]{64}$/) as unknown });
    expect((await get(`/bridge/v1/models${path}`)).body['hashes']).toHaveProperty('autoV3');
  });

  it('shows the picture beside a model, none of a path that leads out, and counts values when it is asked to', async () => {
    await writeFile(join(test.tree.root, 'models/loras/a style.preview.png'), test.tree.picture);
    const picture = await fetch(`${test.url}/bridge/v1/preview/loras/a%20style.safetensors?wait=true`);
    expect(picture.headers.get('content-type')).toBe('image/webp');
    expect(Buffer.from(await picture.arrayBuffer()).toString('latin1', 8, 12)).toBe('WEBP');
    const outside = await fetch(`${test.url}/bridge/v1/preview/loras/%2e%2e%2f%2e%2e%2fmain.py`);
    expect(outside.status).toBe(404);
    const values = await fetch(`${test.url}/bridge/v1/check-values/loras/a%20style.safetensors`, { method: 'POST' });
    expect(await values.json()).toMatchObject({ nan: 0, infinite: 0, badTensors: 0, checkedTensors: 12 });
  });

  it.each([
    ['GET', '/bridge/v1/stats?groupby=kind', /there is no parameter "groupby"/],
    ['GET', '/bridge/v1/doctor?check-values=true', /did you mean check_values\?/],
    ['POST', '/bridge/v1/doctor?await=true', /did you mean wait\?/],
    ['POST', '/bridge/v1/missing-models?wait=yes', /wait: /],
    ['GET', '/bridge/v1/usage?limit=3', /known are wait/],
    ['POST', '/bridge/v1/duplicates?read=true', /no parameter "read"/],
    ['GET', '/bridge/v1/models/loras/a%20style.safetensors?fields=name', /no parameter "fields"/],
  ])('refuses parameters that it does not know: %s %s', async (method, path, message) => {
    const response = await fetch(`${test.url}${path}`, {
      method,
      ...(method === 'POST' ? { headers: { 'content-type': 'application/json' }, body: '{}' } : {}),
    });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({
      error: { code: 'INVALID_REQUEST', message: expect.stringMatching(message) as string },
    });
  });

  it('tells where customary folders are looked for', async () => {
    const { body } = await get('/bridge/v1/paths');
    const { ipadapter } = body['customary'] as Record<string, string[]>;
    expect(ipadapter).toContain(join(test.tree.root, 'models', 'ipadapter'));
  });

  it('pairs and reports', async () => {
    const { body } = await get('/bridge/v1/doctor?wait=true');
    expect(body['pairs']).toMatchObject([{ needs: { label: 'CLIP-H' }, matches: [{ name: 'h.safetensors' }] }]);
    expect(body['issues']).toContainEqual(expect.objectContaining({ kind: 'invalid', severity: 'error' }));
  });

  it('finds the models of a workflow', async () => {
    const response = await fetch(`${test.url}/bridge/v1/missing-models?wait=true`, {
      method: 'POST',
      body: JSON.stringify({ 1: { class_type: 'LoraLoader', inputs: { lora_name: 'x/A_Style.safetensors' } } }),
    });
    expect(await response.json()).toMatchObject({ renamed: 1, references: [{ replacement: 'a style.safetensors' }] });
  });

  it.each([
    ['/bridge/v1/stats?by=colour', 400],
    ['/bridge/v1/models?limit=-1', 400],
    ['/bridge/v1/models?fields=secret', 400],
    ['/bridge/v1/models/loras/../../etc/passwd', 404],
    ['/bridge/v1/models/loras/%2e%2e%2f%2e%2e%2fmain.py', 404],
  ])('refuses %s with %i', async (path, status) => {
    expect((await fetch(`${test.url}${path}`)).status).toBe(status);
  });

  it('tells clients of scans that ask for it, and no others', async () => {
    const talk = async (flags: object): Promise<string[]> => {
      const types: string[] = [];
      const socket = new WebSocket(`ws://${test.host}/ws`);
      socket.on('message', (data: Buffer) => types.push((JSON.parse(data.toString()) as { type: string }).type));
      await once(socket, 'open');
      socket.send(JSON.stringify({ type: 'feature_flags', data: flags }));
      while (!types.includes('feature_flags')) await once(socket, 'message');
      await get('/bridge/v1/stats?wait=true');
      await get('/bridge/v1/stats');
      socket.close();
      await once(socket, 'close');
      return types;
    };
    expect(await talk({ supports_registry_events: true })).toContain('vision_bridge_registry');
    expect(await talk({})).not.toContain('vision_bridge_registry');
  });
});

describe('from the command line', () => {
  const run = async (...args: string[]): Promise<{ code: number | null; stdout: string }> => {
    const flags = ['--comfyui', test.tree.root, '--data-directory', test.tree.dataDirectory];
    const child = spawn(process.execPath, ['--import', import.meta.resolve('tsx'), main, ...args, ...flags]);
    let stdout = '';
    child.stdout.on('data', (data: Buffer) => (stdout += data.toString()));
    await once(child, 'close');
    return { code: child.exitCode, stdout };
  };

  it('lists models as a table, JSON and CSV', async () => {
    expect((await run('models', '--kind', 'lora')).stdout).toContain('a style.safetensors');
    expect(JSON.parse((await run('models', '--kind', 'lora', '--json')).stdout)).toMatchObject([{ base: 'sdxl' }]);
    const { stdout } = await run('models', '--kind', 'lora', '--fields', 'name,triggerWords', '--format', 'csv');
    expect(stdout).toBe('name,triggerWords\na style.safetensors,in style; portrait\n');
  });

  it('explains one file and fails with 1 for one that is not there', async () => {
    expect((await run('info', 'a style.safetensors')).stdout).toMatch(/kind +lora/);
    expect((await run('info', 'nothing.safetensors')).code).toBe(1);
    expect((await run('models', '--sort', 'colour')).code).toBe(2);
  });
});
