/** A program that uses the library and disposes nothing. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { writeTinyModel } from '../support/tiny-model.js';

const library = new URL('../../src/index.ts', import.meta.url).href;

it('ends when it has what it asked for: the inference process keeps nobody', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'vision-bridge-end-'));
  const model = join(folder, 'tiny.safetensors');
  await writeTinyModel(model);
  const script = join(folder, 'script.mjs');
  const image = `{ kind: 'u8-hwc', data: new Uint8Array(32 * 32 * 3), shape: [32, 32, 3] }`;
  await writeFile(
    script,
    `import { CLIPVisionEncoder } from ${JSON.stringify(library)};
     const options = { featureStore: false, dataDirectory: ${JSON.stringify(join(folder, 'data'))} };
     const encoder = await CLIPVisionEncoder.fromPretrained(${JSON.stringify(model)}, options);
     for (const _ of [1, 2]) console.log((await encoder.encodeImage(${image})).globalFeatures.shape.join());`,
  );
  const child = spawn(process.execPath, ['--import', import.meta.resolve('tsx'), script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.on('data', (data) => (text += String(data)));
  const [code] = (await once(child, 'exit')) as [number | null];
  expect({ code, text }).toEqual({ code: 0, text: '1,16\n1,16\n' });
  await rm(folder, { recursive: true });
});
