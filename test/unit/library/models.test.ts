/** Pairing, health and missing models over a made tree with misleading names. */
import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  findEncoderIssues,
  findIssues,
  pairModels,
  readWorkflowFile,
  resolveWorkflow,
} from '../../../src/library/index.js';
import { encodePng } from '../../../src/image/index.js';
import { parseJson, writeJson } from '../../../src/protocol/json.js';
import { f32Tensor } from '../../../src/tensor/tensor.js';
import { CLIP_G, CLIP_H, CLIP_L, ipAdapter, kohyaLora, writeSparseModel } from '../../support/model-files.js';
import { adapterShapes, KOLORS_FACEID } from '../../support/random-adapter.js';
import { makeTestRegistry, type TestRegistry } from '../../support/registry.js';

const goldenModels = join(import.meta.dirname, '..', '..', 'golden', 'vision', 'models');
let tree: TestRegistry;

beforeAll(async () => {
  tree = await makeTestRegistry();
  const files = {
    // Every name says something else than what is in the file.
    'clip_vision/vit-g.safetensors': CLIP_H,
    'clip_vision/clip_vision_h.safetensors': CLIP_G,
    'clip_vision/sigclip.safetensors': CLIP_L,
    'ipadapter/a.safetensors': ipAdapter(768, 'base', 1024),
    'ipadapter/b.safetensors': ipAdapter(768, 'plus', 1280),
    'ipadapter/c.safetensors': ipAdapter(2048, 'base', 1280),
    'ipadapter/d.safetensors': ipAdapter(2048, 'plus', 1280),
    'ipadapter/e.safetensors': ipAdapter(768, 'faceid', 512),
    'loras/style/My_Lora-v2.safetensors': kohyaLora(2, 4),
    'checkpoints/lora in disguise.safetensors': kohyaLora(2, 8),
  };
  for (const [name, shapes] of Object.entries(files)) await writeSparseModel(join(tree.models, name), shapes);
  await tree.registry.scan();
});
afterAll(async () => {
  await tree[Symbol.asyncDispose]();
});

describe('pairing', () => {
  it('finds the right encoder of every adapter by content, whatever the names say', () => {
    const pairs = pairModels(tree.registry.entries());
    expect(
      pairs
        .map(({ adapter, need, matches }) => [adapter.name, adapter.row?.baseModel, need.label, matches[0]?.name])
        .sort(),
    ).toEqual([
      ['a.safetensors', 'sd15', 'CLIP-H', 'vit-g.safetensors'],
      ['b.safetensors', 'sd15', 'CLIP-H', 'vit-g.safetensors'],
      ['c.safetensors', 'sdxl', 'CLIP-bigG', 'clip_vision_h.safetensors'],
      ['d.safetensors', 'sdxl', 'CLIP-H', 'vit-g.safetensors'],
      ['e.safetensors', 'sd15', 'ArcFace (insightface)', undefined],
    ]);
  });

  it('knows FaceID-plus for Kolors by its resampler, whatever its context says, and wants the encoder of 336 pixels', async () => {
    await using own = await makeTestRegistry();
    await writeSparseModel(
      join(own.models, 'ipadapter/a.safetensors'),
      Object.fromEntries(adapterShapes(KOLORS_FACEID)),
    );
    await own.registry.scan();
    expect(
      pairModels(own.registry.entries()).map(({ adapter, need }) => [
        adapter.row?.baseModel,
        adapter.row?.adapter?.projector,
        adapter.row?.adapter?.tokens,
        need.label,
      ]),
    ).toEqual([
      ['kolors', 'faceid-plus', 6, 'ArcFace (insightface)'],
      ['kolors', 'faceid-plus', 6, 'CLIP-L-336'],
    ]);
  });

  it('says with numbers why an encoder does not fit, and what to do', () => {
    const pairs = pairModels(tree.registry.entries());
    const plus = pairs.find(({ adapter }) => adapter.name === 'b.safetensors');
    expect(plus?.mismatches.find(({ file }) => file.name === 'clip_vision_h.safetensors')?.reason).toBe(
      'this adapter projects from hidden states of 1280, CLIP-bigG gives 1664: it wants CLIP-H',
    );
    expect(plus?.advice).toContain('Choose vit-g.safetensors in Load CLIP Vision');
    const face = pairs.find(({ adapter }) => adapter.name === 'e.safetensors');
    expect(face?.advice).toMatch(/insightface.*LoRA/s);
  });
});

describe('health', () => {
  it('names what a dangerous pickle would import, where a file is broken and why, and a folder that vanished', async () => {
    await using own = await makeTestRegistry();
    const golden = join(import.meta.dirname, '../../golden/models');
    await mkdir(join(own.models, 'checkpoints'), { recursive: true });
    const files = ['malicious-zip.ckpt', 'bad-overlap.safetensors', 'bad-lfs-pointer.safetensors', 'legacy-torch.pt'];
    for (const name of files) await copyFile(join(golden, name), join(own.models, 'checkpoints', name));
    await writeSparseModel(join(own.models, 'loras/a.safetensors'), kohyaLora(2, 4));
    await own.registry.scan();
    await rm(join(own.models, 'loras'), { recursive: true });
    await own.registry.scan();
    const issues = findIssues(own.registry).map(({ kind, path, problem }) => [basename(path), `${kind}: ${problem}`]);
    expect(Object.fromEntries(issues)).toEqual({
      'malicious-zip.ckpt': expect.stringMatching(/^dangerous: .*it imports \w+\.system/) as unknown,
      'bad-overlap.safetensors': expect.stringMatching(/^invalid: /) as unknown,
      'bad-lfs-pointer.safetensors': expect.stringMatching(/^invalid: .*Git LFS pointer/) as unknown,
    });
    expect(own.registry.entries().map(({ folder }) => folder)).not.toContain('loras');
  }, 120_000);

  it('names an encoder that nobody loads, with the reason, and none that loads or is of another kind', async () => {
    await using own = await makeTestRegistry();
    await mkdir(join(own.models, 'clip_vision'), { recursive: true });
    await copyFile(join(goldenModels, 'clip-h-tiny.safetensors'), join(own.models, 'clip_vision/good.safetensors'));
    // CLIP-ViT-B/32, which people have and ComfyUI does not know.
    const layers = Array.from({ length: 12 }, (_none, i): [string, number[]] => [
      `vision_model.encoder.layers.${i}.layer_norm1.weight`,
      [768],
    ]);
    await writeSparseModel(join(own.models, 'clip_vision/vit-b-32.safetensors'), {
      'vision_model.embeddings.position_embedding.weight': [50, 768],
      ...Object.fromEntries(layers),
    });
    await writeSparseModel(join(own.models, 'clip_vision/a lora.safetensors'), kohyaLora(2, 4));
    await own.registry.scan();
    expect(await findEncoderIssues(own.registry.entries())).toEqual([
      {
        kind: 'unsupported',
        severity: 'warning',
        path: join(own.models, 'clip_vision/vit-b-32.safetensors'),
        problem: expect.stringMatching(/^vit-b-32\.safetensors is not a vision encoder that ComfyUI loads: /) as string,
        fix: expect.stringContaining('Use a file of an encoder') as string,
      },
    ]);
    const stopped = AbortSignal.abort();
    await expect(findEncoderIssues(own.registry.entries(), stopped)).rejects.toMatchObject({ code: 'CANCELLED' });
  });

  it('names a file that lies in the wrong folder', () => {
    expect(findIssues(tree.registry)).toContainEqual(
      expect.objectContaining({ kind: 'wrong-folder', fix: 'Move it into models/loras.' }),
    );
  });
});

const PROMPT = parseJson(
  '{"1":{"class_type":"LoraLoader","inputs":{"lora_name":"old\\\\my lora V2.safetensors","seed":12345678901234567890}},' +
    '"2":{"class_type":"CLIPVisionLoader","inputs":{"clip_name":"vit-g.safetensors"}},' +
    '"3":{"class_type":"VAELoader","inputs":{"vae_name":"nothing.pt"}},' +
    '"4":{"class_type":"VAELoader","inputs":{"vae_name":"vit-g.safetensors"}}}',
);

describe('missing models', () => {
  it('tells found, renamed, misplaced and missing apart, and repairs the names without harm to large numbers', () => {
    const { references, repaired } = resolveWorkflow(PROMPT, tree.registry.entries());
    expect(references.map(({ status }) => status)).toEqual(['renamed', 'found', 'missing', 'misplaced']);
    const text = writeJson(repaired);
    expect(text).toContain('style/My_Lora-v2.safetensors');
    expect(text).toContain('12345678901234567890');
    expect(text).toContain('nothing.pt');
  });

  it('reads the form of the user interface, with subgraphs', () => {
    const workflow = parseJson(
      '{"nodes":[{"id":7,"type":"LoraLoader","widgets_values":["my-lora-v2.safetensors",1,1]}],' +
        '"definitions":{"subgraphs":[{"nodes":[{"id":1,"type":"VAELoader","widgets_values":["gone.safetensors"]}]}]}}',
    );
    const { references, repaired } = resolveWorkflow(workflow, tree.registry.entries());
    expect(references.map(({ nodeId, status }) => [nodeId, status])).toEqual([
      ['7', 'renamed'],
      ['1', 'missing'],
    ]);
    expect(writeJson(repaired)).toContain('style/My_Lora-v2.safetensors');
  });

  it('reads a workflow out of a picture, and counts what pictures were made with', async () => {
    const image = f32Tensor([1, 1, 1, 3], new Float32Array(3));
    const path = join(tree.root, 'output.png');
    await writeFile(path, await encodePng(image, 0, new Map([['prompt', writeJson(PROMPT)]]), 1));
    expect(writeJson(await readWorkflowFile(path))).toBe(writeJson(PROMPT));
    const usage = await tree.trackUsage({ outputDirectory: tree.root }).usage(tree.registry.entries());
    expect(usage.runs).toBe(1);
    expect(usage.used.map(({ model, count }) => [model.name, count]).sort()).toEqual([
      ['style/My_Lora-v2.safetensors', 1],
      ['vit-g.safetensors', 1],
    ]);
    expect(usage.gone).toEqual([{ name: 'nothing.pt', count: 1 }]);
  });
});

it('tells a model of a workflow that is there but broken from one that can be used', async () => {
  await using own = await makeTestRegistry();
  await writeSparseModel(join(own.models, 'loras/sound.safetensors'), kohyaLora(2, 4));
  await writeFile(join(own.models, 'loras/page.safetensors'), '<!DOCTYPE html><html><body>Log in</body></html>');
  await own.registry.scan();
  const node = (name: string): string => `{"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": "${name}"}}`;
  const workflow = parseJson(`{"1": ${node('sound.safetensors')}, "2": ${node('page.safetensors')}}`);
  const { references, broken, missing } = resolveWorkflow(workflow, own.registry.entries());
  expect({ broken, missing }).toEqual({ broken: 1, missing: 0 });
  expect(references.map(({ name, status, problem }) => [name, status, problem === undefined])).toEqual([
    ['sound.safetensors', 'found', true],
    ['page.safetensors', 'found', false],
  ]);
  expect(references[1]?.problem).toContain('web page');
});
