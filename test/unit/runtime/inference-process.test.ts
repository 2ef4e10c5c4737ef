import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { silentLogger } from '../../../src/common/logger.js';
import { InferenceProcess } from '../../../src/runtime/index.js';
import { u8Tensor, type U8Tensor } from '../../../src/tensor/tensor.js';
import { presetConfig, writeRandomModel, type VisionModel } from '../../../src/vision/index.js';
import { startEngine, type TestEngine } from '../../support/inference.js';

let folder = '';
let path = '';
const image = (batch = 1): U8Tensor => u8Tensor([batch, 224, 224, 3], new Uint8Array(batch * 224 * 224 * 3).fill(77));

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vision-bridge-runtime-'));
  path = join(folder, 'model.safetensors');
  const preset = presetConfig('CLIP-ViT-H');
  if (preset === undefined) throw new Error('no preset');
  await writeRandomModel(
    path,
    { ...preset.config, hiddenSize: 64, heads: 2, layers: 2, intermediateSize: 64, projectionDim: 32 },
    { withConfig: true },
  );
});
afterAll(() => rm(folder, { recursive: true }));

async function warm({ engine }: TestEngine): Promise<VisionModel> {
  const model = await engine.open(path);
  await engine.encode(model, image());
  return model;
}

describe('the inference process', () => {
  it('starts with the first encode and is gone after disposal, which may happen twice', async () => {
    const started = startEngine();
    expect(started.inference.state.pid).toBeUndefined();
    await warm(started);
    const { pid = 0 } = started.inference.state;
    expect(pid).toBeGreaterThan(0);
    await started.inference[Symbol.asyncDispose]();
    await started.inference[Symbol.asyncDispose]();
    expect(() => process.kill(pid, 0)).toThrow();
    await expect(started.engine.encode(await started.engine.open(path), image())).rejects.toMatchObject({
      code: 'RUNTIME_UNAVAILABLE',
    });
  });

  it('killed at random moments answers every call, and serves the next', async () => {
    await using started = startEngine();
    const model = await warm(started);
    for (let round = 0; round < 8; round += 1) {
      const calls = Promise.allSettled([1, 2, 3].map(() => started.engine.encode(model, image(4))));
      await sleep(Math.random() * 60);
      const { pid } = started.inference.state;
      if (pid !== undefined) process.kill(pid, 'SIGKILL');
      for (const result of await calls) {
        if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'RUNTIME_UNAVAILABLE' });
      }
      // Where all were answered before the kill, the end of the process is still to be noticed.
      while (pid !== undefined && started.inference.state.pid === pid) await sleep(1);
      expect((await started.engine.encode(model, image())).imageEmbeds?.shape).toEqual([1, 32]);
    }
    expect(started.inference.state.crashes).toBeGreaterThan(0);
  });

  it('ends after an idle time and comes back by itself', async () => {
    await using started = startEngine({ idleReleaseMs: 50 });
    const model = await warm(started);
    const { pid } = started.inference.state;
    while (started.inference.state.pid !== undefined) await sleep(10);
    await started.engine.encode(model, image());
    expect(started.inference.state.pid).not.toBe(pid);
    expect(started.inference.state.crashes).toBe(0);
  });

  it('starts and reads the model while a large picture is still resampled', async () => {
    await using started = startEngine();
    const model = await started.engine.open(path);
    const large = u8Tensor([1, 1500, 2000, 3], new Uint8Array(1500 * 2000 * 3).fill(9));
    const stages: string[] = [];
    const encoding = started.engine.encode(model, large, { onProgress: ({ stage }) => stages.push(stage) });
    // Before any thread can have answered: the first one is only just starting.
    while (started.inference.state.pid === undefined) await nextTurn();
    expect(started.inference.state.pendingCalls).toBe(0);
    expect((await encoding).imageEmbeds?.shape).toEqual([1, 32]);
    expect(stages).toEqual(['loading', 'running']);
  });

  it('that was started ahead answers the encode itself when the model cannot be loaded', async () => {
    await using started = startEngine({ memoryBudgetBytes: 1000 });
    const model = await started.engine.open(path);
    await expect(started.engine.encode(model, image())).rejects.toMatchObject({ code: 'MEMORY_BUDGET_EXCEEDED' });
    expect(started.inference.state.crashes).toBe(0);
  });

  it('does not count the model that is read ahead among the calls that may wait', async () => {
    await using started = startEngine({ maxPendingCalls: 2 });
    const model = await started.engine.open(path);
    const outputs = await Promise.all([1, 2].map(() => started.engine.encode(model, image())));
    expect(outputs.map(({ imageEmbeds }) => imageEmbeds?.shape)).toEqual([
      [1, 32],
      [1, 32],
    ]);
  });

  it('refuses more calls than may wait, with a clear busy', async () => {
    await using started = startEngine({ maxPendingCalls: 2 });
    const model = await warm(started);
    const calls = [1, 2, 3].map(() => started.engine.encode(model, image()));
    await expect(calls[2]).rejects.toMatchObject({ code: 'BUSY' });
    await expect(Promise.all(calls.slice(0, 2))).resolves.toHaveLength(2);
  });

  it('stops between images when the caller gives up, and answers at once', async () => {
    await using started = startEngine();
    const model = await warm(started);
    const controller = new AbortController();
    let done = 0;
    const call = started.engine.encode(model, image(300), {
      signal: controller.signal,
      onProgress: (progress) => {
        if (progress.stage === 'running') done = progress.done;
      },
    });
    while (done < 2) await sleep(5);
    controller.abort();
    await expect(call).rejects.toMatchObject({ code: 'CANCELLED' });
    const stoppedAt = done;
    await started.engine.encode(model, image());
    expect(done).toBe(stoppedAt);
    expect(done).toBeLessThan(300);
    await expect(started.engine.encode(model, image(), { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'CANCELLED',
    });
  });

  it('reports a model that vanished, and one that changed under it is run as it is now', async () => {
    await using started = startEngine();
    const other = join(folder, 'other.safetensors');
    const preset = presetConfig('CLIP-ViT-L');
    if (preset === undefined) throw new Error('no preset');
    const config = { ...preset.config, hiddenSize: 32, heads: 1, layers: 2, intermediateSize: 32, projectionDim: 16 };
    await writeRandomModel(other, config, { withConfig: true, seed: 1 });
    const model = await started.engine.open(other);
    const before = await started.engine.encode(model, image());
    await rm(other);
    await expect(started.engine.encode(model, image())).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND' });
    await writeRandomModel(other, config, { withConfig: true, seed: 2 });
    const after = await started.engine.encode(model, image());
    expect(after.imageEmbeds?.data).not.toEqual(before.imageEmbeds?.data);
  });
});

describe('work that nobody waits for', () => {
  it('is done when no call has come for a while, and not between calls', async () => {
    const entry = new URL('../../support/tidying-process.ts', import.meta.url);
    await using inference = new InferenceProcess({
      entry,
      idleReleaseMs: 60_000,
      maxPendingCalls: 64,
      logger: silentLogger,
    });
    const tidied = (): Promise<unknown> => inference.call('tidied', {});
    expect(new Set(await Promise.all(Array.from({ length: 20 }, tidied)))).toEqual(new Set([0]));
    await sleep(2000);
    expect(await tidied()).toBe(1);
  });
});
