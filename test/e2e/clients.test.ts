/** Unmodified npm clients of ComfyUI run the demo's workflow. */
import { Client } from '@stable-canvas/comfyui-client';
import { ComfyUIClient } from 'comfy-ui-client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import WebSocket from 'ws';
import { parseSafetensors } from '../../src/formats/index.js';
import { encodeWorkflow, startTestBridge, type TestBridge } from '../support/bridge.js';

let started: TestBridge;
beforeAll(async () => {
  started = await startTestBridge();
});
afterAll(() => started[Symbol.asyncDispose]());

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

describe('@stable-canvas/comfyui-client', () => {
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
