/** Clients of ComfyUI that know nothing of us: upload, run, follow, fetch, interrupt, error. */
import { execFile, spawnSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { CallWrapper, ComfyApi, PromptBuilder } from '@saintno/comfyui-sdk';
import { Client } from '@stable-canvas/comfyui-client';
import { ComfyUIClient } from 'comfy-ui-client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import WebSocket from 'ws';
import { silentLogger } from '../../src/common/logger.js';
import { parseSafetensors } from '../../src/formats/index.js';
import { PromptQueue } from '../../src/graph/index.js';
import { startServer, type BridgeServer } from '../../src/server/index.js';
import { encodeWorkflow, startTestBridge, type TestBridge } from '../support/bridge.js';
import { fixtureNodes } from '../support/fixture-nodes.js';

let started: TestBridge;
/** The same folders, with nodes that take their time and that raise. */
let slowQueue: PromptQueue;
let slowServer: BridgeServer;
beforeAll(async () => {
  started = await startTestBridge();
  const nodes = new Map([...started.bridge.nodes, ...fixtureNodes.map((node) => [node.classType, node] as const)]);
  slowQueue = new PromptQueue({ table: nodes, logger: silentLogger });
  slowServer = await startServer({ ...started.bridge, nodes, queue: slowQueue });
});
afterAll(async () => {
  await slowServer[Symbol.asyncDispose]();
  await slowQueue[Symbol.asyncDispose]();
  await started[Symbol.asyncDispose]();
});

const echoOf = (class_type: string, inputs: Record<string, unknown>): ReturnType<typeof encodeWorkflow> => ({
  '1': { class_type, inputs },
  '2': { class_type: 'FxEcho', inputs: { value: ['1', 0] } },
});
const slowWorkflow = echoOf('FxSteps', { steps: 1000, delay_ms: 20, preview: 'none' });
const brokenWorkflow = echoOf('FxRaise', { value: 1, message: 'boom' });
const slowHost = (): string => new URL(slowServer.url).host;

/** How the latest prompt ended, once it has. */
async function lastStatus(): Promise<unknown> {
  for (;;) {
    const body = (await (await fetch(`${slowServer.url}/history`)).json()) as Record<string, { status: Status }>;
    const entry = Object.values(body).at(-1);
    if (slowQueue.remaining === 0 && entry !== undefined) return entry.status.messages.at(-1)?.[0];
  }
}

interface Status {
  readonly messages: readonly (readonly [string, unknown])[];
}

async function untilRunning(): Promise<void> {
  while (slowQueue.remaining === 0) await new Promise((resolve) => setTimeout(resolve, 5));
}

interface SavedFile {
  readonly filename: string;
  readonly subfolder: string;
  readonly type: string;
}

async function featuresOf(promptId: string): Promise<unknown> {
  for (;;) {
    const body = (await (await fetch(`${started.url}/history/${promptId}`)).json()) as History;
    const entry = body[promptId];
    // As in ComfyUI, the entry may come a moment after execution_success.
    if (entry !== undefined) return entry.outputs['4']?.features;
  }
}

type History = Record<string, { readonly outputs: Record<string, { readonly features?: unknown }> }>;

async function expectFeatures(files: unknown, model: string): Promise<void> {
  const [file] = files as SavedFile[];
  const response = await fetch(`${started.url}/view?${new URLSearchParams({ ...file }).toString()}`);
  const { tensors } = parseSafetensors(new Uint8Array(await response.arrayBuffer()));
  expect(tensors.get('image_embeds')?.shape, model).toEqual([1, model.includes('-H-') ? 128 : 96]);
  expect(tensors.get('last_hidden_state')?.shape[1], model).toBe(257);
}

describe('comfy-ui-client', () => {
  it('uploads, runs the workflow, and gets the preview and the features', async () => {
    const client = new ComfyUIClient(started.host, 'comfy-ui-client');
    await client.connect();
    try {
      const upload = await client.uploadImage(Buffer.from(started.tree.picture), 'client-a.png');
      expect(upload.name).toBe('client-a.png');
      const images = await client.getImages(encodeWorkflow(upload.name));
      expect(images['5']?.[0]?.image.type).toBe('temp');
      expect(images['5']?.[0]?.blob.size).toBeGreaterThan(1000);
      await expectFeatures(await featuresOf(Object.keys(await client.getHistory()).at(-1) ?? ''), 'CLIP-ViT-H-demo');
      expect((await client.getSystemStats()).devices).toHaveLength(1);
      expect(Object.keys(await client.getObjectInfo())).toContain('CLIPVisionEncode');
    } finally {
      await client.disconnect();
    }
  });

  it('gets the validation errors of a bad workflow', async () => {
    const client = new ComfyUIClient(started.host, 'comfy-ui-client-bad');
    await client.connect();
    try {
      await expect(client.queuePrompt({ '1': { class_type: 'NoSuchNode', inputs: {} } })).rejects.toThrow('NoSuchNode');
    } finally {
      await client.disconnect();
    }
  });
});

describe('comfy-ui-client against nodes that take their time', () => {
  it('interrupts a run, and is told of an error of a node', async () => {
    const client = new ComfyUIClient(slowHost(), 'comfy-ui-client-slow');
    await client.connect();
    try {
      await client.queuePrompt(slowWorkflow);
      await untilRunning();
      // It reads JSON where ComfyUI sends an empty body, and so do we.
      await expect(client.interrupt()).rejects.toThrow(SyntaxError);
      expect(await lastStatus()).toBe('execution_interrupted');
      await client.queuePrompt(brokenWorkflow);
      expect(await lastStatus()).toBe('execution_error');
    } finally {
      await client.disconnect();
    }
  });
});

describe('@stable-canvas/comfyui-client', () => {
  it('interrupts a run, and is told of an error of a node', async () => {
    const client = new Client({ api_host: slowHost(), clientId: 'stable-canvas-slow', WebSocket, fetch });
    await client.connect();
    try {
      // Its enqueue() does not end with an interrupt; its events tell of one.
      const interrupted = new Promise((resolve) => client.on('execution_interrupted', resolve));
      await client.queuePrompt(0, { prompt: slowWorkflow, workflow: {} });
      await untilRunning();
      await client.interrupt();
      await interrupted;
      const failed = new Promise((resolve) => client.on('execution_error', resolve));
      await client.queuePrompt(0, { prompt: brokenWorkflow, workflow: {} });
      await expect(failed).resolves.toMatchObject({ exception_message: 'boom\n' });
    } finally {
      client.close();
    }
  });

  it('runs the workflow over its websocket and gets the features', async () => {
    const client = new Client({
      api_host: started.host,
      clientId: 'stable-canvas',
      WebSocket,
      fetch,
    });
    await client.connect();
    try {
      const form = new FormData();
      form.set('image', new Blob([started.tree.picture]), 'client-b.png');
      await fetch(`${started.url}/upload/image`, { method: 'POST', body: form });
      const result = await client.enqueue(encodeWorkflow('client-b.png', 'CLIP-ViT-L-demo.safetensors'));
      expect(result.images).toHaveLength(1);
      await expectFeatures(await featuresOf(result.prompt_id), 'CLIP-ViT-L-demo');
    } finally {
      client.close();
    }
  });
});

describe('@saintno/comfyui-sdk', () => {
  const api = async (url: string, id: string): Promise<ComfyApi> => {
    const client = new ComfyApi(url, id);
    await client.init(5, 100).waitForReady();
    return client;
  };

  it('uploads, runs the workflow, follows it, and gets the preview and the features', async () => {
    const client = await api(started.url, 'saintno');
    try {
      const uploaded = await client.uploadImage(Buffer.from(started.tree.picture), 'client-c.png');
      if (uploaded === false) throw new Error('the upload was refused');
      expect(uploaded.info).toMatchObject({ filename: 'client-c.png', type: 'input' });
      const workflow = new PromptBuilder(encodeWorkflow('client-c.png') as never, [], ['features', 'preview'])
        .setOutputNode('features', '4' as never)
        .setOutputNode('preview', '5' as never);
      const followed: string[] = [];
      const wrapper = new CallWrapper(client, workflow)
        .onPending(() => followed.push('pending'))
        .onOutput((key) => followed.push(`output ${key}`))
        .onFinished(() => followed.push('finished'));
      const outputs = (await wrapper.run()) as unknown as Record<string, { images?: SavedFile[]; features?: unknown }>;
      expect(followed[0]).toBe('pending');
      expect(followed.at(-1)).toBe('finished');
      expect(followed).toEqual(expect.arrayContaining(['output features', 'output preview']));
      const [image] = outputs['preview']?.images ?? [];
      if (image === undefined) throw new Error('there is no preview');
      expect((await client.getImage(image)).size).toBeGreaterThan(1000);
      await expectFeatures(outputs['features']?.features, 'CLIP-ViT-H-demo');
      expect(Object.keys((await client.getNodeDefs('CLIPVisionEncode')) ?? {})).toEqual(['CLIPVisionEncode']);
    } finally {
      client.destroy();
    }
  });

  it('interrupts a run, and is told of an error of a node and of a refused prompt', async () => {
    const client = await api(slowServer.url, 'saintno-slow');
    // It listens for events only once it has read the answer: the first node gives it the time.
    let delay = 50;
    const afterQuick = (prompt: Record<string, object>): object => ({
      ...prompt,
      '2': { class_type: 'FxEcho', inputs: { value: ['4', 0] } },
      // No two alike, or it would come from the cache.
      '3': { class_type: 'FxSteps', inputs: { steps: 4, delay_ms: (delay += 1), preview: 'none' } },
      '4': { class_type: 'FxAdd', inputs: { a: ['1', 0], b: ['3', 0] } },
    });
    let reported = 0;
    const failureOf = async (prompt: Record<string, object>): Promise<string> => {
      const workflow = new PromptBuilder(afterQuick(prompt) as never, [], ['echo']).setOutputNode('echo', '2' as never);
      let failure = 'none';
      const wrapper = new CallWrapper(client, workflow).onProgress(() => (reported += 1));
      await wrapper.onFailed((error) => (failure = error.message)).run();
      return failure;
    };
    try {
      const interrupted = failureOf(slowWorkflow);
      while (reported === 0) await new Promise((resolve) => setTimeout(resolve, 5));
      await client.interrupt();
      expect(await interrupted).toMatch(/interrupt/i);
      const broken = {
        '1': { class_type: 'FxRaise', inputs: { value: ['5', 0], message: 'boom' } },
        '5': { class_type: 'FxSteps', inputs: { steps: ['3', 0], delay_ms: 60, preview: 'none' } },
      };
      expect(await failureOf(broken)).toBe('ValueError');
      expect(await lastStatus()).toBe('execution_error');
      await expect(client.appendPrompt({ '1': { class_type: 'NoSuchNode', inputs: {} } })).rejects.toBeDefined();
    } finally {
      client.destroy();
    }
  });
});

describe('a Python script of the standard library', () => {
  it('uploads, runs, follows, fetches, meets errors and interrupts', async ({ skip }) => {
    skip(spawnSync('python3', ['--version']).status !== 0, 'there is no python3');
    const picture = join(started.tree.root, 'plain-source.png');
    await writeFile(picture, started.tree.picture);
    const script = new URL('../support/plain_client.py', import.meta.url).pathname;
    const prompts = [encodeWorkflow('plain.png'), slowWorkflow, brokenWorkflow].map((prompt) => JSON.stringify(prompt));
    const { stdout } = await promisify(execFile)('python3', [script, slowHost(), picture, ...prompts]);
    const result = JSON.parse(stdout) as { followed: string[] };
    expect(result).toMatchObject({
      uploaded: 'plain.png',
      png: '89504e470d0a1a0a',
      failed: 'execution_error',
      interrupted: 'execution_interrupted',
      refusal: { status: 400 },
    });
    expect(result.followed).toEqual(expect.arrayContaining(['execution_start', 'executing', 'executed']));
  });
});
