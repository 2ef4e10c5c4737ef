/** The inference process is killed again and again under load: every request is answered, and none wrongly. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { parseSafetensors, serializeSafetensors } from '../../src/formats/index.js';
import { f32Tensor, u8Tensor, type F32Tensor, type U8Tensor } from '../../src/tensor/tensor.js';
import { startTestBridge } from '../support/bridge.js';
import { maxAbsDiff } from '../support/compare.js';
import { seededRandom } from '../support/random.js';
import { TINY, writeTinyModel } from '../support/tiny-model.js';

const KILLS = 20;
const CALLERS = 6;
/** Starting from source, loading and running all take part of this: kills meet each of them. */
const LONGEST_PAUSE_MS = 1500;
const PATIENCE_MS = 15_000;
const MODEL = 'tiny.safetensors';

it('killed 20 times at random moments, every request gets its features or a clear error, and none hangs', async ({
  onTestFailed,
}) => {
  const seed = Math.floor(Math.random() * 2 ** 31);
  onTestFailed(() => {
    console.error(`seed ${seed}`);
  });
  const random = seededRandom(seed);
  await using started = await startTestBridge({ featureStore: false });
  await writeTinyModel(join(started.tree.root, 'models', 'clip_vision', MODEL));

  /** Batches of one to four pictures, no two alike. */
  const inputs: U8Tensor[] = [1, 2, 3, 4].map((batch) =>
    u8Tensor(
      [batch, TINY.imageSize + 9, TINY.imageSize, 3],
      Uint8Array.from({ length: batch * (TINY.imageSize + 9) * TINY.imageSize * 3 }, () => random() * 256),
    ),
  );
  const bodies = inputs.map((image) => serializeSafetensors({ image }));
  const encode = (input: number): Promise<Response> =>
    fetch(`${started.url}/bridge/v1/encode?model=${MODEL}`, {
      method: 'POST',
      body: bodies[input] ?? '',
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  const embedsOf = async (response: Response): Promise<F32Tensor | undefined> => {
    const embeds = parseSafetensors(new Uint8Array(await response.arrayBuffer())).tensors.get('image_embeds');
    return embeds?.dtype === 'F32' ? embeds : undefined;
  };
  const references = await Promise.all(inputs.map(async (_input, i) => embedsOf(await encode(i))));

  const counts = { answered: 0, refused: 0 };
  const progress = { isKilling: true };
  const call = async (first: number): Promise<void> => {
    for (let turn = first; progress.isKilling; turn += 1) {
      const input = turn % inputs.length;
      const response = await encode(input); // throws when there is no answer in time
      if (response.status === 200) {
        // What ran together depends on the moment; a product of one row is summed in another order.
        expect(
          maxAbsDiff(await embedsOf(response), references[input] ?? f32Tensor([0], new Float32Array(0))),
        ).toBeLessThan(1e-5);
        counts.answered += 1;
      } else {
        const { error } = (await response.json()) as { error: { code: string } };
        expect(['RUNTIME_UNAVAILABLE', 'BUSY']).toContain(error.code);
        expect(response.status).toBe(503);
        counts.refused += 1;
      }
      await sleep(5);
    }
  };
  const inferencePid = async (): Promise<number | null> => {
    const response = await fetch(`${started.url}/bridge/v1/health`, { signal: AbortSignal.timeout(PATIENCE_MS) });
    return ((await response.json()) as { inference: { pid: number | null } }).inference.pid;
  };
  const killAll = async (): Promise<void> => {
    let killed: number | null = null;
    for (let kill = 0; kill < KILLS; kill += 1) {
      await sleep(random() * LONGEST_PAUSE_MS);
      let pid = await inferencePid();
      while (pid === null || pid === killed) {
        await sleep(5);
        pid = await inferencePid();
      }
      process.kill(pid, 'SIGKILL');
      killed = pid;
    }
  };

  const callers = Promise.all(Array.from({ length: CALLERS }, (_none, i) => call(i)));
  await Promise.race([killAll(), callers]);
  progress.isKilling = false;
  await callers;

  expect(started.bridge.inference.state.crashes).toBe(KILLS);
  expect(counts.answered).toBeGreaterThan(0);
  expect(counts.refused).toBeGreaterThan(0);
  for (const [input, reference] of references.entries()) {
    const response = await encode(input);
    expect(response.status).toBe(200);
    expect(await embedsOf(response)).toEqual(reference);
  }
}, 90_000);
