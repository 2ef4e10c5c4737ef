/**
 * Every encoder of the golden folder's `expected` part on the GPU devices that work here, against its own result on the CPU, which
 * encode.test.ts holds to ComfyUI's. A device that does not work here is skipped with its reason.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { BridgeError } from '../../../src/common/errors.js';
import { DEVICES, type Device } from '../../../src/runtime/index.js';
import { f32Tensor, type F32Tensor } from '../../../src/tensor/tensor.js';
import { OUTPUT_FIELDS, type VisionModel } from '../../../src/vision/index.js';
import { cosineDistance } from '../../support/compare.js';
import { startEngine } from '../../support/inference.js';
import { goldenVisionFolder, listed } from './golden-folder.js';

const MAX_DISTANCE = 1e-5;

const models = join(goldenVisionFolder, 'models');
const names = listed(models).filter((name) => existsSync(join(goldenVisionFolder, 'expected', name)));
const started = startEngine();
const { engine } = started;
afterAll(() => started[Symbol.asyncDispose]());

function pixelsFor({ config }: VisionModel): F32Tensor {
  const { imageSize } = config;
  const values = Float32Array.from({ length: 2 * 3 * imageSize ** 2 }, (_none, i) => Math.sin(i * 0.37) * 1.5);
  return f32Tensor([2, 3, imageSize, imageSize], values);
}

/** Why a device cannot be used, or undefined. */
async function absence(device: Device): Promise<string | undefined> {
  const [first] = names;
  if (first === undefined) return 'no models';
  try {
    const model = await engine.open(join(models, first));
    await engine.encode(model, { pixelValues: pixelsFor(model) }, { device });
    return undefined;
  } catch (error) {
    if (error instanceof BridgeError && error.code === 'DEVICE_UNAVAILABLE') return error.message;
    throw error;
  }
}

it.for(DEVICES.filter((device) => device !== 'cpu' && device !== 'auto'))(
  '[gpu] %s runs every encoder as the CPU does',
  { timeout: 300_000 },
  async (device, { skip }) => {
    const reason = await absence(device);
    skip(reason !== undefined, reason);
    for (const name of names) {
      const model = await engine.open(join(models, name));
      const pixelValues = pixelsFor(model);
      const there = await engine.encode(model, { pixelValues }, { device });
      const here = await engine.encode(model, { pixelValues }, { device: 'cpu' });
      for (const output of model.outputs.filter((candidate) => candidate !== 'all_hidden_states')) {
        const [got, wanted] = [there[OUTPUT_FIELDS[output]], here[OUTPUT_FIELDS[output]]];
        if (got === undefined || wanted === undefined) throw new Error(`no ${output}`);
        expect(got.shape).toEqual(wanted.shape);
        expect(cosineDistance(got.data, wanted.data), `${name}, ${output}`).toBeLessThan(MAX_DISTANCE);
      }
    }
  },
);
