/** IP-Adapters over HTTP, in prompts, on the command line and as a library: one adapter gives one answer everywhere. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { ComfyClient } from '../../src/cli/demo/client.js';
import { parseSafetensors } from '../../src/formats/index.js';
import { encodePng, toImageTensor } from '../../src/image/index.js';
import { ComfyUIPathResolver, IPAdapterService, ReferenceImage } from '../../src/index.js';
import { serializeSafetensors } from '../../src/formats/index.js';
import type { Tensor, U8Tensor } from '../../src/tensor/tensor.js';
import { startTestBridge, type TestBridge } from '../support/bridge.js';
import { maxAbsDiff } from '../support/compare.js';
import { squares, writeFacePack } from '../support/face-networks.js';
import { f32Of } from '../support/golden-tensors.js';

const golden = join(import.meta.dirname, '..', 'golden', 'vision');
const main = new URL('../../src/cli/main.ts', import.meta.url).pathname;
const loader = import.meta.resolve('tsx');
const RED = [255, 0, 0] as const;

let started: TestBridge;
const inTree = (...parts: string[]): string => join(started.tree.root, ...parts);
beforeAll(async () => {
  started = await startTestBridge();
  const copies = [
    ['models/clip-h-tiny.safetensors', 'models/clip_vision/zz-unnamed.safetensors'],
    ['ipadapter/models/base-sd15.safetensors', 'models/ipadapter/base.safetensors'],
    ['ipadapter/models/plus-sd15.safetensors', 'models/ipadapter/sub/plus.safetensors'],
    ['models/clip-l-tiny.safetensors', 'models/ipadapter/no-adapter.safetensors'],
  ] as const;
  for (const [from, to] of copies) {
    await mkdir(join(inTree(to), '..'), { recursive: true });
    await copyFile(join(golden, from), inTree(to));
  }
  await writeFacePack(inTree('models', 'insightface', 'models', 'antelopev2'));
});
afterAll(() => started[Symbol.asyncDispose]());

type Body = FormData | Uint8Array<ArrayBuffer>;
const post = (path: string, body: Body): Promise<Response> =>
  fetch(`${started.url}/bridge/v1/${path}`, { method: 'POST', body });
const get = async (path: string): Promise<unknown> => (await fetch(`${started.url}/bridge/v1/${path}`)).json();
const tensorsOf = async (reply: Response): Promise<ReadonlyMap<string, Tensor>> => {
  expect(reply.status, await reply.clone().text()).toBe(200);
  return parseSafetensors(new Uint8Array(await reply.arrayBuffer())).tensors;
};
const png = async (picture: U8Tensor): Promise<Uint8Array<ArrayBuffer>> =>
  Uint8Array.from(await encodePng(toImageTensor(picture), 0, new Map(), 1));
const picture = (x: number): U8Tensor => squares(96, 80, [{ x, y: 20, side: 30, color: RED }]);

function form(files: readonly (readonly [string, Uint8Array<ArrayBuffer>])[]): FormData {
  const body = new FormData();
  for (const [name, bytes] of files) body.append(name, new Blob([bytes]), `${name}.bin`);
  return body;
}

const nothing = (): void => undefined;
const inFolders = (...args: string[]): ReturnType<typeof run> => run(...args, '--comfyui', started.tree.root);

async function run(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, ['--import', loader, main, ...args]);
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (data: Buffer) => (output.stdout += data.toString()));
  child.stderr.on('data', (data: Buffer) => (output.stderr += data.toString()));
  await once(child, 'close');
  return { code: child.exitCode, ...output };
}

describe('over HTTP', () => {
  it('lists adapters with the encoders that fit, and says why a file is none', async () => {
    expect(await get('ipadapter')).toMatchObject({
      adapters: [
        { name: 'base.safetensors', variant: 'base', tokens: 4, encoders: ['zz-unnamed.safetensors'] },
        { name: 'no-adapter.safetensors', problem: { code: 'ADAPTER_UNKNOWN' } },
        { name: 'sub/plus.safetensors', variant: 'plus', encoder: { width: 48 }, layers: [1, 3] },
      ],
    });
    expect(await get('ipadapter/inspect?adapter=sub/plus.safetensors')).toMatchObject({ token_width: 24 });
  });

  it('gives the same tokens for pictures and for the embeds of them', async () => {
    const files = form([
      ['image', await png(picture(10))],
      ['image', await png(picture(40))],
    ]);
    const settings = 'adapter=sub/plus.safetensors&combine=average&weights=1,0.5';
    const direct = await tensorsOf(await post(`ipadapter/project?${settings}&layers=all`, files));
    expect([...direct.keys()].sort()).toEqual(
      [
        'cond',
        'uncond',
        ...['k', 'v'].flatMap((letter) =>
          ['cond', 'uncond'].flatMap((side) => [1, 3].map((layer) => `${letter}_${side}.${layer}`)),
        ),
      ].sort(),
    );
    const embeds = new Uint8Array(await (await post(`ipadapter/embeds?${settings}`, files)).arrayBuffer());
    const again = await tensorsOf(await post('ipadapter/project?adapter=sub/plus.safetensors&layers=1', embeds));
    for (const name of ['cond', 'uncond', 'k_cond.1'])
      expect(maxAbsDiff(f32Of(again, name), f32Of(direct, name)), name).toBeLessThan(1e-6);
  });

  it('asks the inference process nothing about a picture that was projected before', async () => {
    const image = await png(picture(30));
    const calls = vi.spyOn(started.bridge.inference, 'call');
    const project = async (): Promise<readonly [number, ReadonlyMap<string, Tensor>]> => {
      const before = calls.mock.calls.length;
      const reply = await post('ipadapter/project?adapter=sub/plus.safetensors', form([['image', image]]));
      return [calls.mock.calls.length - before, await tensorsOf(reply)];
    };
    const [first, made] = await project();
    expect(first).toBeGreaterThan(0);
    let kept = made;
    // Until the weights are known, which threads find out.
    await vi.waitUntil(
      async () => {
        const [asked, tensors] = await project();
        kept = tensors;
        return asked === 0;
      },
      { timeout: 30_000 },
    );
    for (const name of ['cond', 'uncond']) expect(maxAbsDiff(f32Of(kept, name), f32Of(made, name)), name).toBe(0);
    calls.mockRestore();
  });

  it('combines embeds that came apart', async () => {
    const one = async (x: number): Promise<Uint8Array<ArrayBuffer>> => {
      const reply = await post('ipadapter/embeds?adapter=base.safetensors', form([['image', await png(picture(x))]]));
      return new Uint8Array(await reply.arrayBuffer());
    };
    const parts = form([
      ['a', await one(10)],
      ['b', await one(40)],
    ]);
    const combined = await tensorsOf(await post('ipadapter/combine?method=norm%20average', parts));
    const together = form([
      ['image', await png(picture(10))],
      ['image', await png(picture(40))],
    ]);
    const direct = await tensorsOf(
      await post('ipadapter/embeds?adapter=base.safetensors&combine=norm%20average', together),
    );
    expect(maxAbsDiff(f32Of(combined, 'cond.image'), f32Of(direct, 'cond.image'))).toBeLessThan(1e-6);
  });

  it('hands out the layers as they are stored', async () => {
    const got = await tensorsOf(
      await fetch(`${started.url}/bridge/v1/ipadapter/layers?adapter=base.safetensors&layers=3`),
    );
    const file = parseSafetensors(await readFile(inTree('models', 'ipadapter', 'base.safetensors'))).tensors;
    expect([...got.keys()].sort()).toEqual(['3.to_k_ip.weight', '3.to_v_ip.weight']);
    expect(got.get('3.to_v_ip.weight')).toEqual(file.get('ip_adapter.3.to_v_ip.weight'));
    expect(await get('ipadapter/weights?model=sdxl&type=composition&weight=0.5')).toMatchObject({
      transformers: [
        { weight: null },
        { weight: null },
        { weight: null },
        { weight: 0.5, turned: false },
        ...Array<unknown>(7).fill({ weight: null }),
      ],
    });
  });

  it('tells how alike two faces are, and that there is none', async () => {
    const face = (x: number): Promise<Uint8Array<ArrayBuffer>> =>
      png(squares(640, 640, [{ x, y: 320, side: 16, color: RED }]));
    const two = form([
      ['a', await face(160)],
      ['b', await face(320)],
    ]);
    const reply = await post('faces/similarity', two);
    expect(await reply.json()).toMatchObject({ pack: 'antelopev2', faces: [{ box: [128, 288, 192, 352] }, {}] });
    const none = form([
      ['a', await face(160)],
      ['b', await png(squares(640, 640, []))],
    ]);
    const refusal = await post('faces/similarity', none);
    expect(refusal.status).toBe(422);
    expect(await refusal.json()).toMatchObject({ error: { code: 'FACE_NOT_FOUND' } });
  });

  it('combines side by side where no method is named, with a weight for each', async () => {
    const embeds = Uint8Array.from(
      Buffer.from(
        await (
          await post('ipadapter/embeds?adapter=base.safetensors', form([['a', await png(picture(10))]]))
        ).arrayBuffer(),
      ),
    );
    const two = form([
      ['a', embeds],
      ['b', embeds],
    ]);
    const both = f32Of(await tensorsOf(await post('ipadapter/combine?weights=1,-0.5', two)), 'cond.image');
    const [rows = 0, width = 0] = both.shape;
    expect(rows).toBe(2);
    both.data.subarray(width).forEach((value, i) => {
      expect(value).toBe(-0.5 * (both.data[i] ?? NaN));
    });
  });

  it.each([
    ['project?adapter=base.safetensors&layers=abc', 'image', /layers: layer numbers such as 1,3, or all, are wanted/],
    ['project?adapter=base.safetensors&layers=', 'image', /layers: layer numbers/],
    ['project?adapter=base.safetensors&layers=1,,3', 'image', /layers: layer numbers/],
    ['project?adapter=base.safetensors&face=foo', 'image', /face: first, largest, or the number of a face/],
    ['embeds?adapter=base.safetensors&weights=1,', 'image', /weights: numbers such as 1,0.5/],
    ['embeds?adapter=base.safetensors&weights=1,2', 'image', /2 weights are given for 1 picture\./],
    ['project?adapter=base.safetensors&weights=1,2', 'image', /2 weights are given for 1 picture\./],
    ['project?adapter=base.safetensors', 'negativ', /A part is named "negativ"; did you mean negative\?/],
    ['combine?weights=1', 'a', /SAFETENSORS|safetensors/],
  ])('says what is meant: %s with a part %s', async (path, part, message) => {
    const reply = await post(`ipadapter/${path}`, form([[part, await png(picture(10))]]));
    expect(reply.status).toBeGreaterThanOrEqual(400);
    expect(((await reply.json()) as { error: { message: string } }).error.message).toMatch(message);
  });

  it('says how embeds are sent where they come as a part', async () => {
    const embeds = await post('ipadapter/embeds?adapter=base.safetensors', form([['a', await png(picture(10))]]));
    const part = form([['embeds', new Uint8Array(await embeds.arrayBuffer())]]);
    const reply = await post('ipadapter/project?adapter=base.safetensors', part);
    expect(reply.status).toBe(400);
    expect(await reply.text()).toContain('Embeds are sent as the body itself');
  });

  it('answers what is wrong with an error of the catalogue', async () => {
    const image = await png(picture(10));
    const cases: [string, Body, number, string][] = [
      ['project?adapter=nothing.safetensors', form([['image', image]]), 404, 'MODEL_NOT_FOUND'],
      ['project?adapter=../clip_vision/zz-unnamed.safetensors', form([['image', image]]), 404, 'MODEL_NOT_FOUND'],
      ['project?adapter=/etc/passwd', form([['image', image]]), 400, 'INVALID_REQUEST'],
      ['project?adapter=no-adapter.safetensors', form([['image', image]]), 422, 'ADAPTER_UNKNOWN'],
      ['project?adapter=base.safetensors&layers=2', form([['image', image]]), 422, 'OUTPUT_UNAVAILABLE'],
      ['project?adapter=base.safetensors&combine=median', form([['image', image]]), 400, 'INVALID_REQUEST'],
      ['project?adapter=base.safetensors', form([]), 400, 'INVALID_REQUEST'],
      ['project?adapter=base.safetensors', new Uint8Array([1, 2, 3]), 422, 'SAFETENSORS_INVALID'],
      [
        'project?adapter=base.safetensors&clip_vision=CLIP-ViT-H-demo.safetensors',
        form([['image', image]]),
        422,
        'PAIR_MISMATCH',
      ],
      ['combine?method=add', form([['a', image]]), 422, 'SAFETENSORS_INVALID'],
    ];
    for (const [path, body, status, code] of cases) {
      const reply = await post(`ipadapter/${path}`, body);
      expect([path, reply.status, ((await reply.json()) as { error: { code: string } }).error.code]).toEqual([
        path,
        status,
        code,
      ]);
    }
  });
});

it('in a prompt: load, encode, combine, save, load again', async () => {
  await using client = await ComfyClient.connect(started.url);
  const one = await client.uploadImage('one.png', await png(picture(10)));
  const two = await client.uploadImage('two.png', await png(picture(40)));
  const encode = (image: string): { class_type: string; inputs: Record<string, unknown> } => ({
    class_type: 'VisionBridgeIPAdapterEncode',
    inputs: { ipadapter: ['1', 0], image: [image, 0], weight: 0.8, combine_embeds: 'concat' },
  });
  const prompt = {
    '1': { class_type: 'VisionBridgeIPAdapterLoader', inputs: { ipadapter: 'sub/plus.safetensors' } },
    '2': { class_type: 'LoadImage', inputs: { image: one } },
    '3': { class_type: 'LoadImage', inputs: { image: two } },
    '4': encode('2'),
    '5': encode('3'),
    '6': {
      class_type: 'VisionBridgeCombineEmbeds',
      inputs: { embeds1: ['4', 0], embeds2: ['5', 0], method: 'concat' },
    },
    '7': { class_type: 'VisionBridgeSaveEmbeds', inputs: { embeds: ['6', 0], filename_prefix: 'both' } },
  };
  await client.run(prompt, nothing);
  const saved = (await readdir(inTree('output'))).filter((name) => name.startsWith('both'));
  expect(saved).toEqual(['both_00001_.safetensors']);
  const bytes = await readFile(inTree('output', 'both_00001_.safetensors'));
  const { tensors, metadata } = parseSafetensors(bytes);
  expect(tensors.get('cond.image')?.shape).toEqual([2, 257, 48]);
  expect(metadata.get('provenance')).toContain('"variant":"plus"');
  await client.run(
    {
      '1': { class_type: 'VisionBridgeLoadEmbeds', inputs: { embeds: 'both_00001_.safetensors [output]' } },
      '2': { class_type: 'VisionBridgeSaveEmbeds', inputs: { embeds: ['1', 0], filename_prefix: 'again' } },
    },
    nothing,
  );
  expect(await readFile(inTree('output', 'again_00001_.safetensors'))).toEqual(bytes);
});

describe('on the command line', () => {
  it('inspect names what each file is and which encoder it wants', async () => {
    const { code, stdout } = await inFolders('ipadapter', 'inspect', '--json');
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      adapters: [
        { encoder: 'zz-unnamed.safetensors' },
        { problem: { code: 'ADAPTER_UNKNOWN' } },
        { summary: { variant: 'plus' } },
      ],
    });
    const refused = await inFolders('ipadapter', 'inspect', 'no-adapter.safetensors');
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain('ADAPTER_UNKNOWN');
  });

  it('project and combine give what the server and the library give', async () => {
    const folder = started.tree.dataDirectory;
    const [image, out, embeds, both] = ['p.png', 'tokens.safetensors', 'e.safetensors', 'both.safetensors'].map(
      (name) => join(folder, name),
    ) as [string, string, string, string];
    await writeFile(image, await png(picture(10)));
    const projected = await inFolders(
      'ipadapter',
      'project',
      image,
      '--adapter',
      'base.safetensors',
      '--weights',
      '0.5',
      '--layers',
      'all',
      '--out',
      out,
      '--save-embeds',
      embeds,
    );
    expect(projected.code, projected.stderr).toBe(0);
    const got = parseSafetensors(await readFile(out)).tensors;
    const served = await tensorsOf(
      await post(
        'ipadapter/project?adapter=base.safetensors&weights=0.5&layers=all',
        form([['image', await png(picture(10))]]),
      ),
    );
    for (const name of served.keys())
      expect(maxAbsDiff(f32Of(got, name), f32Of(served, name)), name).toBeLessThan(1e-6);

    await using service = new IPAdapterService({
      adapter: 'base.safetensors',
      resolver: ComfyUIPathResolver.fromComfyUI(started.tree.root),
    });
    const blended = await service.blend([new ReferenceImage({ kind: 'file', path: image }, { weight: 0.5 })]);
    const { cond } = await service.project(blended);
    expect(maxAbsDiff(cond.tokens, f32Of(got, 'cond'))).toBeLessThan(1e-6);

    const combined = await run('ipadapter', 'combine', embeds, embeds, '--method', 'add', '--out', both, '--json');
    expect(combined.code, combined.stderr).toBe(0);
    expect(JSON.parse(combined.stdout)).toMatchObject({ shape: [1, 36], method: 'add' });
    const again = await inFolders('ipadapter', 'project', '--embeds', both, '--adapter', 'base.safetensors', '--json');
    expect(JSON.parse(again.stdout)).toMatchObject({
      tensors: [{ name: 'cond', shape: [1, 4, 40] }, { name: 'uncond' }],
    });
  });

  it('says what is wrong, with the exit code of usage or of failure', async () => {
    expect((await inFolders('ipadapter', 'project', '--adapter', 'base.safetensors')).code).toBe(2);
    const missing = await inFolders('ipadapter', 'project', 'no.png', '--adapter', 'nothing.safetensors');
    expect(missing.code).toBe(1);
    expect(missing.stderr).toContain('base.safetensors');
    const adapter = ['--adapter', 'base.safetensors'];
    const layers = await inFolders('ipadapter', 'project', 'no.png', ...adapter, '--layers', 'abc');
    expect(layers.stderr).toContain('--layers takes layer numbers such as 1,3, or all; got "abc"');
    const idle = await inFolders(
      'ipadapter',
      'project',
      '--embeds',
      'x',
      ...adapter,
      '--tiles-ratio',
      '1',
      '--weights',
      '1',
    );
    expect(idle).toMatchObject({ code: 2 });
    expect(idle.stderr).toContain('--weights and --tiles-ratio would change nothing');
    const many = await inFolders('ipadapter', 'project', 'no.png', ...adapter, '--weights', '1,2');
    expect(many.stderr).toContain('--weights: 2 are given for 1 picture.');
    const inspected = await inFolders('ipadapter', 'inspect', 'nope.safetensors', 'base.safetensors');
    expect(inspected.code).toBe(1);
    expect(inspected.stdout).toMatch(/base\.safetensors .*4 × 40/);
    expect(inspected.stderr).toContain('MODEL_NOT_FOUND');
    const broken = join(started.tree.dataDirectory, 'broken.safetensors');
    await writeFile(broken, serializeSafetensors({}));
    expect((await run('ipadapter', 'combine', broken, '--out', broken)).stderr).toContain('EMBEDS_INVALID');
  });
});
