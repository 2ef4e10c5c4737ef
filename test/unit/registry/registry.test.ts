/** The index: what a scan finds, what it does not read twice, and what queries answer. */
import { link, mkdir, rename, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findDuplicates } from '../../../src/registry/index.js';
import { CLIP_H, kohyaLora, writeSparseModel } from '../../support/model-files.js';
import { makeTestRegistry, type TestRegistry } from '../../support/registry.js';

let tree: TestRegistry;
const lora = (name: string, rank = 4): Promise<void> =>
  writeSparseModel(join(tree.models, 'loras', name), kohyaLora(3, rank));

beforeEach(async () => {
  tree = await makeTestRegistry();
});
afterEach(async () => {
  await tree[Symbol.asyncDispose]();
});

describe('a scan', () => {
  it('reads each file once, and none after a restart', async () => {
    await lora('a.safetensors');
    await lora('sub/b.safetensors', 8);
    expect(await tree.registry.scan()).toMatchObject({ files: 2, read: 2 });
    expect(await tree.registry.scan()).toMatchObject({ files: 2, read: 0 });
    await using again = tree.reopen();
    expect(await again.registry.scan()).toMatchObject({ files: 2, read: 0 });
    expect(again.registry.getAllLoras().map(({ name, row }) => [name, row?.rank])).toEqual([
      ['a.safetensors', 4],
      ['sub/b.safetensors', 8],
    ]);
  });

  it('follows a rename without reading the file again', async () => {
    await lora('old.safetensors');
    await tree.registry.scan();
    await rename(join(tree.models, 'loras/old.safetensors'), join(tree.models, 'loras/new.safetensors'));
    expect(await tree.registry.scan()).toMatchObject({ files: 1, read: 0 });
    expect(tree.registry.getAllLoras().map(({ name }) => name)).toEqual(['new.safetensors']);
  });

  it('reads a file again whose time changed', async () => {
    await lora('a.safetensors');
    await tree.registry.scan();
    await utimes(join(tree.models, 'loras/a.safetensors'), 1_000_000, 1_000_000);
    expect(await tree.registry.scan()).toMatchObject({ read: 1 });
  });

  it('counts links and hard links once, and survives a loop and a link that leads nowhere', async () => {
    await lora('a.safetensors');
    const folder = join(tree.models, 'loras');
    await link(join(folder, 'a.safetensors'), join(folder, 'hard.safetensors'));
    await symlink(join(folder, 'a.safetensors'), join(folder, 'soft.safetensors'));
    await symlink(folder, join(folder, 'loop'));
    await symlink(join(folder, 'nowhere'), join(folder, 'gone.safetensors'));
    const summary = await tree.registry.scan();
    expect(summary).toMatchObject({ read: 1 });
    expect(tree.registry.stats('kind').total.files).toBe(1);
    expect(summary.roots.flatMap(({ problems }) => problems)).toHaveLength(3);
  });

  it('sees files that ComfyUI does not list, and says so', async () => {
    await writeSparseModel(join(tree.models, 'ipadapter/x.safetensors'), CLIP_H);
    await lora('a.safetensors');
    await tree.registry.scan();
    expect(tree.registry.query({ listed: false }).models.map(({ folder }) => folder)).toEqual(['ipadapter']);
    expect(tree.registry.query({ listed: true }).models.map(({ folder }) => folder)).toEqual(['loras']);
  });

  it('keeps a broken file as a result, and reads the rest', async () => {
    await mkdir(join(tree.models, 'loras'), { recursive: true });
    await writeFile(join(tree.models, 'loras/page.safetensors'), '<!DOCTYPE html><html></html>');
    await writeFile(join(tree.models, 'loras/empty.gguf'), '');
    await lora('a.safetensors');
    await tree.registry.scan();
    const status = Object.fromEntries(tree.registry.entries().map(({ name, row }) => [name, row?.status]));
    expect(status).toMatchObject({ 'a.safetensors': 'ok', 'page.safetensors': 'invalid' });
    expect(status['empty.gguf']).not.toBe('ok');
  });

  it('marks a file that one of the same name in an earlier folder hides', async () => {
    await writeSparseModel(join(tree.models, 'text_encoders/t.safetensors'), kohyaLora(1, 1));
    await writeSparseModel(join(tree.models, 'clip/t.safetensors'), kohyaLora(1, 2));
    await tree.registry.scan();
    expect(tree.registry.query({ shadowed: true }).models.map(({ path, shadowedBy }) => [path, shadowedBy])).toEqual([
      [join(tree.models, 'clip/t.safetensors'), join(tree.models, 'text_encoders/t.safetensors')],
    ]);
  });

  it('forgets files of a folder that went away', async () => {
    await lora('a.safetensors');
    await tree.registry.scan();
    await rm(join(tree.models, 'loras'), { recursive: true });
    await tree.registry.scan();
    expect(tree.registry.entries()).toHaveLength(0);
  });

  it('is shared by two registries over one store at the same time', async () => {
    for (let i = 0; i < 100; i += 1) await lora(`${i}.safetensors`, 1 + (i % 7));
    await using other = tree.reopen();
    const summaries = await Promise.all([tree.registry.scan(), other.registry.scan()]);
    expect(summaries.map(({ files }) => files)).toEqual([100, 100]);
    expect(other.registry.stats('kind')).toEqual(tree.registry.stats('kind'));
  });
});

describe('queries', () => {
  it('filter, sort and page', async () => {
    for (const rank of [2, 16, 8]) await lora(`r${rank}.safetensors`, rank);
    await writeSparseModel(join(tree.models, 'clip_vision/e.safetensors'), CLIP_H);
    await tree.registry.scan();
    const { total, models } = tree.registry.query({ kind: 'lora', sort: 'rank', descending: true, limit: 2 });
    expect(total).toBe(3);
    expect(models.map(({ row }) => row?.rank)).toEqual([16, 8]);
    expect(tree.registry.query({ encoder: 'clip-vit-h-14' }).total).toBe(1);
    expect(tree.registry.query({ text: 'R1' }).models.map(({ name }) => name)).toEqual(['r16.safetensors']);
  });

  it('find duplicates by content and keep the hashes', async () => {
    await lora('a.safetensors');
    await lora('b.safetensors');
    await lora('c.safetensors', 5);
    await link(join(tree.models, 'loras/a.safetensors'), join(tree.models, 'loras/hard.safetensors'));
    await tree.registry.scan();
    const { groups, reclaimableBytes } = await findDuplicates(tree.registry, tree.registry.entries());
    expect(groups.map(({ files }) => files.length)).toEqual([2]);
    expect(reclaimableBytes).toBe(groups[0]?.sizeBytes);
    const [entry] = groups[0]?.files ?? [];
    expect(entry === undefined ? undefined : (await tree.registry.knownHashes(entry))?.sha256).toBe(groups[0]?.sha256);
  });
});
