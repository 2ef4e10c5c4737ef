/** Which models were used, from a running server that speaks ComfyUI's protocol, and from pictures. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createBridge, openRegistry, type Bridge } from '../../src/bridge.js';
import { silentLogger } from '../../src/common/logger.js';
import { parseConfig } from '../../src/config.js';
import { encodePng } from '../../src/image/index.js';
import type { TrackedUsage } from '../../src/library/index.js';
import { f32Tensor } from '../../src/tensor/tensor.js';
import { startTestBridge, type TestBridge } from '../support/bridge.js';
import { kohyaLora, writeSparseModel } from '../support/model-files.js';

let comfyui: TestBridge;
let dataDirectory: string;
let beside: Bridge;

beforeAll(async () => {
  comfyui = await startTestBridge();
  await writeSparseModel(join(comfyui.tree.root, 'models/loras/used.safetensors'), kohyaLora(2, 4));
  await writeSparseModel(join(comfyui.tree.root, 'models/loras/idle.safetensors'), kohyaLora(2, 8));
  dataDirectory = await mkdtemp(join(tmpdir(), 'usage-'));
  const flags = { comfyui: comfyui.tree.root, comfyuiUrl: comfyui.url, dataDirectory, port: 0 };
  beside = await createBridge(parseConfig(flags), silentLogger);
  await beside.registry.refresh();
});
afterAll(async () => {
  await beside[Symbol.asyncDispose]();
  await comfyui[Symbol.asyncDispose]();
  await rm(dataDirectory, { recursive: true, force: true });
});

const ENCODER = 'CLIP-ViT-H-demo.safetensors';
/** A graph that needs an encoder and no inference; `text` tells graphs apart. */
const graph = (text: string): Record<string, unknown> => ({
  1: { class_type: 'CLIPVisionLoader', inputs: { clip_name: ENCODER } },
  2: { class_type: 'PreviewAny', inputs: { source: ['1', 0] } },
  3: { class_type: 'PrimitiveString', inputs: { value: `${text} used.safetensors` } },
  4: { class_type: 'PreviewAny', inputs: { source: ['3', 0] } },
});

/** Runs a prompt on the server that stands for ComfyUI, to its end. */
async function run(text: string, workflowId?: string): Promise<string> {
  const extra_data = workflowId === undefined ? {} : { extra_pnginfo: { workflow: { id: workflowId, nodes: [] } } };
  const response = await fetch(`${comfyui.url}/prompt`, {
    method: 'POST',
    body: JSON.stringify({ prompt: graph(text), extra_data }),
  });
  const { prompt_id: id } = (await response.json()) as { prompt_id: string };
  for (;;) {
    const history = (await (await fetch(`${comfyui.url}/history/${id}`)).json()) as object;
    if (Object.keys(history).length > 0) return id;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const countOf = ({ used }: TrackedUsage, name: string): number =>
  used.find(({ model }) => model.name === name)?.count ?? 0;

describe('usage', () => {
  it('is counted from the history of a running server, once per run, with the workflows that ran', async () => {
    const before = Date.now();
    const id = await run('a', 'workflow-1');
    await run('a', 'workflow-1');
    await run('b', 'workflow-2');
    for (let again = 0; again < 2; again += 1) {
      const usage = await beside.usage.usage(beside.registry.entries());
      expect(usage.problems).toEqual([]);
      expect(usage.runs).toBe(3);
      const encoder = usage.used.find(({ model }) => model.name === ENCODER);
      expect(encoder).toMatchObject({ count: 3, workflowIds: ['workflow-2', 'workflow-1'] });
      expect(encoder?.sources).toContain(`prompt ${id}`);
      expect(encoder?.lastUsedMs).toBeGreaterThanOrEqual(before - 1000);
      expect(usage.unused.map(({ name }) => name)).toContain('idle.safetensors');
      expect(usage.unusedBytes).toBe(usage.unused.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0));
    }
  });

  it('is read in pages where much ran that is not known yet', async () => {
    for (let i = 0; i < 130; i += 1) await run(`page ${i}`);
    expect((await beside.usage.usage(beside.registry.entries())).runs).toBe(133);
  });

  it('follows the queue by itself, and is kept when the server forgets it or is gone', async () => {
    beside.usage.start();
    await run('followed');
    // Another process over the same store, which asks no server.
    await using other = openRegistry({ roots: () => [], dataDirectory, logger: silentLogger });
    const tracker = other.trackUsage({ outputDirectory: '' });
    while ((await tracker.usage([])).runs < 134) await new Promise((resolve) => setTimeout(resolve, 50));
    await fetch(`${comfyui.url}/history`, { method: 'POST', body: '{"clear": true}' });
    expect((await beside.usage.usage(beside.registry.entries())).runs).toBe(134);
    const gone = other.trackUsage({ outputDirectory: '', comfyuiUrl: 'http://127.0.0.1:9' });
    const usage = await gone.usage(beside.registry.entries());
    expect(countOf(usage, ENCODER)).toBe(134);
    expect(usage.problems).toEqual([expect.stringContaining('No ComfyUI answers at http://127.0.0.1:9')]);
  });

  it('counts a batch of pictures as one run, and pictures of a prompt that was counted not at all', async () => {
    const output = join(comfyui.tree.root, 'output/day');
    await mkdir(output, { recursive: true });
    const picture = (prompt: object, shade: number): Promise<Uint8Array> =>
      encodePng(
        f32Tensor([1, 1, 1, 3], new Float32Array(3).fill(shade)),
        0,
        new Map([['prompt', JSON.stringify(prompt)]]),
        1,
      );
    const lora = { 1: { class_type: 'LoraLoader', inputs: { lora_name: 'used.safetensors' }, is_changed: ['x'] } };
    await writeFile(join(output, 'a_1.png'), await picture(lora, 0.1));
    await writeFile(join(output, 'a_2.png'), await picture(lora, 0.2));
    await writeFile(join(output, 'counted.png'), await picture(graph('b'), 0.3));
    await writeFile(join(output, 'broken.png'), 'no picture');
    const usage = await beside.usage.usage(beside.registry.entries());
    expect(countOf(usage, 'used.safetensors')).toBe(1);
    expect(countOf(usage, ENCODER)).toBe(134);
    expect(usage.unused.map(({ name }) => name)).not.toContain('used.safetensors');
    await rm(output, { recursive: true });
    // Pictures are deleted; what they told stays.
    expect(countOf(await beside.usage.usage(beside.registry.entries()), 'used.safetensors')).toBe(1);
  });

  it('is printed by the command, and answered over HTTP', async () => {
    const main = new URL('../../src/cli/main.ts', import.meta.url).pathname;
    const flags = ['--comfyui', comfyui.tree.root, '--comfyui-url', comfyui.url, '--data-directory', dataDirectory];
    const child = spawn(process.execPath, ['--import', import.meta.resolve('tsx'), main, 'usage', '--json', ...flags]);
    let stdout = '';
    child.stdout.on('data', (data: Buffer) => (stdout += data.toString()));
    await once(child, 'close');
    const printed = JSON.parse(stdout) as { runs: number; used: { name: string; count: number }[] };
    expect(printed.used.find(({ name }) => name === ENCODER)?.count).toBe(134);
    const answer = await (await fetch(`${comfyui.url}/bridge/v1/usage?wait=true`)).json();
    expect(answer).toMatchObject({ comfyuiUrl: null, runs: 0, problems: [] });
  }, 120_000);
});
