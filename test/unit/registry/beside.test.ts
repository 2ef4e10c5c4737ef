/** What lies beside models: sidecars of other programs, pictures, and the parts of models in several files. */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findIssues, modelDetailsJson, modelJson, resolveWorkflow } from '../../../src/library/index.js';
import { findDuplicates, type ModelEntry } from '../../../src/registry/index.js';
import { parseJson } from '../../../src/protocol/json.js';
import { CLIP_H, writeSparseModel, type Shapes } from '../../support/model-files.js';
import { makeTestRegistry, type TestRegistry } from '../../support/registry.js';

let tree: TestRegistry;
beforeEach(async () => {
  tree = await makeTestRegistry();
});
afterEach(async () => {
  await tree[Symbol.asyncDispose]();
});

const put = async (name: string, content: object | string): Promise<void> => {
  const path = join(tree.models, name);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content));
};
const find = (name: string): ModelEntry => {
  const entry = tree.registry.entries().find((model) => model.name === name);
  if (entry === undefined) throw new Error(`${name} is not listed`);
  return entry;
};
/** A LoRA whose modules are alike in several base models: its header does not tell. */
const UNKNOWN: Shapes = { 'lora_unet_x.lora_down.weight': [4, 640], 'lora_unet_x.lora_up.weight': [640, 4] };

describe('sidecars', () => {
  const CIVITAI = {
    id: 22,
    modelId: 11,
    name: 'v2',
    baseModel: 'Pony',
    trainedWords: ['glow, neon', 'neon'],
    model: { name: 'Glow', tags: ['style'] },
    files: [
      { hashes: { SHA256: 'AB'.repeat(32), AutoV3: 'ABCDEF012345', BLAKE3: 'CD'.repeat(32), CRC32: '12345678' } },
    ],
  };
  it.each([
    ['.metadata.json', { model_name: 'Glow v2', base_model: 'Pony', sha256: 'ab'.repeat(32), civitai: CIVITAI }],
    ['.civitai.info', CIVITAI],
    [
      '.cm-info.json',
      {
        ModelId: 11,
        ModelName: 'Glow',
        VersionId: 22,
        VersionName: 'v2',
        BaseModel: 'Pony',
        TrainedWords: ['glow', 'neon'],
        Hashes: { SHA256: 'AB'.repeat(32), BLAKE3: 'CD'.repeat(32) },
      },
    ],
  ])('*%s gives title, base model, trigger words and hashes, each as a claim', async (ending, content) => {
    await writeSparseModel(join(tree.models, 'loras/a.safetensors'), UNKNOWN);
    await put(`loras/a${ending}`, content);
    await tree.registry.refresh();
    const fields = ['title', 'base', 'baseSource', 'triggerWords', 'sidecars'];
    expect(modelJson(find('a.safetensors'), fields)).toEqual({
      title: 'Glow v2',
      base: 'sdxl',
      baseSource: `a${ending}`,
      triggerWords: ['glow', 'neon'],
      sidecars: [`a${ending}`],
    });
    const { claims } = await modelDetailsJson(tree.registry, find('a.safetensors'));
    expect(claims).toMatchObject({ hashes: { sha256: 'ab'.repeat(32), blake3: 'cd'.repeat(32) } });
    expect(claims).toHaveProperty('url', 'https://civitai.com/models/11?modelVersionId=22');
    expect(tree.registry.query({ base: 'sdxl' }).total).toBe(1);
    expect(tree.registry.query({ text: 'NEON glow' }).total).toBe(1);
  });

  it('says nothing against the header, and doctor tells where they contradict each other', async () => {
    await writeSparseModel(join(tree.models, 'loras/a.safetensors'), UNKNOWN, {
      ss_base_model_version: 'flux1',
      'modelspec.title': 'Own title',
      'modelspec.trigger_phrase': 'own',
    });
    await put('loras/a.civitai.info', CIVITAI);
    await tree.registry.refresh();
    expect(modelJson(find('a.safetensors'), ['title', 'base', 'baseSource', 'triggerWords'])).toEqual({
      title: 'Own title',
      base: 'flux',
      baseSource: 'header',
      triggerWords: ['own'],
    });
    expect(findIssues(tree.registry)).toContainEqual(
      expect.objectContaining({ kind: 'sidecar', problem: expect.stringContaining('a.civitai.info') as unknown }),
    );
  });

  it('whose hash is not that of the file is told when the file is hashed', async () => {
    await writeSparseModel(join(tree.models, 'loras/a.safetensors'), UNKNOWN);
    await put('loras/a.civitai.info', CIVITAI);
    await tree.registry.refresh();
    await tree.registry.hash(find('a.safetensors'));
    expect(await modelDetailsJson(tree.registry, find('a.safetensors'))).toMatchObject({
      hashes: { claimsAgree: false },
    });
  });

  it('that are broken, huge, of other programs or links into nowhere tell nothing and harm nobody', async () => {
    await writeSparseModel(join(tree.models, 'loras/a.safetensors'), UNKNOWN);
    await put('loras/a.metadata.json', '{"model_name": "cut');
    await put('loras/a.civitai.info', `{"baseModel":"Pony","x":"${'x'.repeat(5_000_000)}"}`);
    await put('loras/a.cm-info.json', '[1, 2]');
    await put('loras/a.json', { architectures: ['X'], 'sd version': 7, 'activation text': ['no text'] });
    await tree.registry.refresh();
    expect(modelJson(find('a.safetensors'), ['base', 'title', 'sidecars'])).toEqual({
      base: null,
      title: null,
      sidecars: null,
    });
  });

  it('are read again when they change, and are forgotten when they are gone', async () => {
    await writeSparseModel(join(tree.models, 'loras/a.safetensors'), UNKNOWN);
    await put('loras/a.json', { 'sd version': 'SD1', 'activation text': 'one' });
    await put('loras/a.preview.png', 'no picture');
    await tree.registry.refresh();
    expect(modelJson(find('a.safetensors'), ['base', 'triggerWords', 'preview'])).toEqual({
      base: 'sd15',
      triggerWords: ['one'],
      preview: join(tree.models, 'loras/a.preview.png'),
    });
    await put('loras/a.json', { 'sd version': 'SDXL', 'activation text': 'three, four' });
    await tree.registry.refresh();
    expect(modelJson(find('a.safetensors'), ['base', 'triggerWords'])).toEqual({
      base: 'sdxl',
      triggerWords: ['three', 'four'],
    });
    await rm(join(tree.models, 'loras/a.json'));
    await tree.registry.refresh();
    expect(modelJson(find('a.safetensors'), ['base'])).toEqual({ base: null });
  });
});

describe('a model in several files', () => {
  const names = Object.keys(CLIP_H);
  const part = (from: number, to: number): Shapes =>
    Object.fromEntries(
      Object.entries(CLIP_H).filter(([name]) => names.indexOf(name) >= from && names.indexOf(name) < to),
    );
  const third = Math.ceil(names.length / 3);
  const file = (i: number): string => `model-0000${i}-of-00003.safetensors`;
  const write = async (parts: readonly number[]): Promise<void> => {
    for (const i of parts)
      await writeSparseModel(join(tree.models, 'clip_vision/big', file(i)), part((i - 1) * third, i * third));
  };
  const index = (): Promise<void> =>
    put('clip_vision/big/model.safetensors.index.json', {
      weight_map: Object.fromEntries(names.map((name, i) => [name, file(Math.floor(i / third) + 1)])),
    });

  it('counts as one, is identified by all of its tensors, and is hashed part by part', async () => {
    await write([1, 2, 3]);
    await index();
    await tree.registry.refresh();
    const { entries, files } = { entries: tree.registry.entries(), files: tree.registry.files() };
    expect([entries.length, files.length]).toEqual([1, 3]);
    expect(modelJson(find(`big/${file(1)}`), ['kind', 'encoder', 'parts', 'tensors', 'size', 'status'])).toEqual({
      kind: 'clip_vision',
      encoder: 'clip-vit-h-14',
      parts: 3,
      tensors: names.length,
      size: files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      status: 'ok',
    });
    expect(tree.registry.stats('kind').groups).toMatchObject([{ group: 'clip_vision', files: 1 }]);
    await expect(tree.registry.hash(find(`big/${file(1)}`))).rejects.toMatchObject({ code: 'INVALID_REQUEST' });
    expect((await findDuplicates(tree.registry, entries)).problems).toEqual([]);
    expect((await tree.registry.contents.checkValues(find(`big/${file(1)}`))).checkedTensors).toBe(names.length);
    const prompt = parseJson(`{"1":{"class_type":"CLIPVisionLoader","inputs":{"clip_name":"big/${file(2)}"}}}`);
    expect(resolveWorkflow(prompt, entries).references).toMatchObject([{ status: 'found' }]);
    // Known at once after a restart.
    await using again = tree.reopen();
    await again.registry.scan();
    expect(again.registry.entries()).toMatchObject([{ row: { encoder: 'clip-vit-h-14' } }]);
  }, 120_000);

  it('with a part missing is incomplete, and doctor names what to download', async () => {
    await write([1, 3]);
    await tree.registry.refresh();
    expect(findIssues(tree.registry)).toMatchObject([
      {
        kind: 'incomplete',
        severity: 'error',
        problem: `1 of its 3 parts is missing: ${file(2)}`,
        fix: `Download what is missing into ${join(tree.models, 'clip_vision/big')}.`,
      },
    ]);
    await write([2]);
    await tree.registry.refresh();
    expect(findIssues(tree.registry)).toEqual([]);
  });

  it('with a broken part is broken, and tells which', async () => {
    await write([1, 2]);
    await put(`clip_vision/big/${file(3)}`, '<!doctype html>');
    await tree.registry.refresh();
    const [issue] = findIssues(tree.registry);
    expect(issue).toMatchObject({ kind: 'invalid' });
    expect(issue?.problem).toContain(`its part ${file(3)}: it is a web page`);
  });

  it('whose table names files under any name is told by the table', async () => {
    const half = Math.ceil(names.length / 2);
    await writeSparseModel(join(tree.models, 'clip_vision/x.safetensors'), part(0, half));
    await writeSparseModel(join(tree.models, 'clip_vision/y.safetensors'), part(half, names.length));
    await put('clip_vision/z.safetensors.index.json', { weight_map: { a: 'x.safetensors', b: 'y.safetensors' } });
    await tree.registry.refresh();
    expect(tree.registry.entries()).toMatchObject([{ row: { encoder: 'clip-vit-h-14' } }]);
  });

  it('whose table leads nowhere, out of its folder or is broken is an issue, and nothing outside is read', async () => {
    await put('clip_vision/a.safetensors.index.json', { weight_map: { t: 'gone-00001-of-00002.safetensors' } });
    await put('clip_vision/b.safetensors.index.json', { weight_map: { t: '../../secret.safetensors' } });
    await put('clip_vision/c.safetensors.index.json', '{');
    await writeSparseModel(join(tree.models, 'clip_vision/other.safetensors'), CLIP_H);
    await tree.registry.refresh();
    expect(findIssues(tree.registry).map(({ kind, path }) => [kind, basename(path).slice(0, 1)])).toEqual([
      ['incomplete', 'a'],
      ['invalid', 'b'],
      ['invalid', 'c'],
    ]);
  });
});
