/** Programs that use the library: one that disposes nothing, and one where there is no ComfyUI. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { writeTinyModel } from '../support/tiny-model.js';

const library = new URL('../../src/index.ts', import.meta.url).href;

const golden = join(import.meta.dirname, '..', 'golden', 'vision');

it('takes adapter and encoder by their paths where there is no ComfyUI, and says what is missing where they have none', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'vision-bridge-paths-'));
  const script = join(folder, 'script.mjs');
  const adapter = join(golden, 'ipadapter', 'models', 'base-sd15.safetensors');
  await writeFile(
    script,
    `import { IPAdapterService, ReferenceImage } from ${JSON.stringify(library)};
     const options = { adapter: ${JSON.stringify(adapter)}, featureStore: false, dataDirectory: ${JSON.stringify(folder)} };
     const picture = { kind: 'u8-hwc', data: new Uint8Array(32 * 32 * 3), shape: [32, 32, 3] };
     const service = new IPAdapterService({ ...options, clipVisionPath: ${JSON.stringify(join(golden, 'models', 'clip-h-tiny.safetensors'))} });
     const { cond } = await service.project(await service.blend([new ReferenceImage(picture)]));
     console.log(cond.tokens.shape.join());
     await service[Symbol.asyncDispose]();
     const without = new IPAdapterService(options);
     await without.blend([new ReferenceImage(picture)]).catch((error) => console.log(error.code));
     await without[Symbol.asyncDispose]();
     try { new IPAdapterService({ ...options, adapter: 'name.safetensors' }); } catch (error) { console.log(error.code); }`,
  );
  const child = spawn(process.execPath, ['--import', import.meta.resolve('tsx'), script], {
    stdio: ['ignore', 'pipe', 'inherit'],
    cwd: folder,
    env: { ...process.env, HOME: folder },
  });
  let text = '';
  child.stdout.on('data', (data) => (text += String(data)));
  const [code] = (await once(child, 'exit')) as [number | null];
  expect({ code, text }).toEqual({ code: 0, text: '1,4,40\nMODEL_NOT_FOUND\nCOMFYUI_NOT_FOUND\n' });
  await rm(folder, { recursive: true });
});

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
