import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FolderPaths, type PathsChange } from '../../../src/paths/index.js';

let root = '';
let paths: FolderPaths;
let changes: PathsChange[];
const loras = (...names: string[]): string => join(root, 'models', 'loras', ...names);

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'vision-bridge-watch-'));
  await mkdir(loras('sub'), { recursive: true });
  await mkdir(join(root, 'linked'));
  await symlink(join(root, 'linked'), loras('link'));
  await writeFile(loras('a.pt'), '');
  paths = new FolderPaths({ installDirectory: root });
  changes = [];
  await paths.list('loras');
  await paths.watch((change) => changes.push(change));
});
afterEach(async () => {
  await paths[Symbol.asyncDispose]();
  await rm(root, { recursive: true });
});

/** Waits for a change, and then for no further one. */
async function expectOneChange(): Promise<PathsChange> {
  const begin = performance.now();
  while (changes.length === 0 && performance.now() - begin < 5000) await sleep(10);
  const took = performance.now() - begin;
  await sleep(400);
  expect(changes).toHaveLength(1);
  expect(took).toBeLessThan(1500);
  return changes[0] ?? { folders: [] };
}

describe('a watched folder', () => {
  it('tells a burst of new files once, and lists them', async () => {
    for (let i = 0; i < 20; i += 1) await writeFile(loras('sub', `n${i}.pt`), '');
    expect(await expectOneChange()).toEqual({ folders: ['loras'] });
    expect(await paths.list('loras')).toHaveLength(21);
  });

  it('is seen through links, and in folders that are new', async () => {
    await writeFile(join(root, 'linked', 'x.pt'), '');
    await expectOneChange();
    expect(await paths.list('loras')).toContain('link/x.pt');
    changes.length = 0;
    await mkdir(loras('new', 'deep'), { recursive: true });
    await writeFile(loras('new', 'deep', 'y.pt'), '');
    while (!(await paths.list('loras')).includes('new/deep/y.pt')) await sleep(20);
  });

  it('says nothing when no name changed', async () => {
    await writeFile(loras('a.pt'), 'content');
    await writeFile(loras('ignored.txt'), '');
    await sleep(1200);
    expect(changes).toEqual([]);
  });

  it('notices that a configured folder appears and disappears', async () => {
    await rename(loras(), join(root, 'away'));
    await expectOneChange();
    expect(await paths.list('loras')).toEqual([]);
    changes.length = 0;
    await rename(join(root, 'away'), loras());
    await expectOneChange();
    expect(await paths.list('loras')).toEqual(['a.pt']);
  });
});

describe('a watched configuration', () => {
  const file = (): string => join(root, 'extra_model_paths.yaml');

  it('is taken up when it appears, and the last good one stays in force when it breaks', async () => {
    await mkdir(join(root, 'more'));
    await writeFile(join(root, 'more', 'z.pt'), '');
    await writeFile(file(), 'a:\n  loras: more\n');
    expect(await expectOneChange()).toEqual({ folders: ['loras'], problems: [] });
    expect(await paths.list('loras')).toEqual(['a.pt', 'z.pt']);
    changes.length = 0;
    await writeFile(file(), 'a:\n  loras: [more]\n');
    const { folders, problems } = await expectOneChange();
    expect(folders).toEqual([]);
    expect(problems?.[0]).toMatchObject({ severity: 'error', line: 2, column: 10 });
    expect(await paths.list('loras')).toEqual(['a.pt', 'z.pt']);
    changes.length = 0;
    await rm(file());
    expect(await expectOneChange()).toMatchObject({ folders: ['loras'] });
    expect(await paths.list('loras')).toEqual(['a.pt']);
  });
});
