import { fork } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import { open } from 'lmdb';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLogger, type Logger } from '../../../src/common/logger.js';
import { FeatureStore } from '../../../src/store/feature-store.js';
import { openStore, type Store } from '../../../src/store/index.js';

let directory = '';
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'vision-bridge-store-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const bytes = (length: number, fill: number): Uint8Array => new Uint8Array(length).fill(fill);
const opened = (logger: Logger = silentLogger): Promise<Store> =>
  openStore({ directory, maxFeatureBytes: 1000, logger });

describe('FeatureStore', () => {
  it('gives back what was put, also after a restart', async () => {
    {
      await using store = await opened();
      await store.features.put('a', bytes(10, 7));
      expect(store.features.get('b')).toBeUndefined();
    }
    await using again = await opened();
    expect(again.features.get('a')).toEqual(Buffer.from(bytes(10, 7)));
    expect(again.features.stats()).toEqual({ entries: 1, sizeBytes: 10, maxBytes: 1000, hits: 1, misses: 0 });
  });

  it('counts an entry once when it is put again', async () => {
    await using store = await opened();
    await store.features.put('a', bytes(600, 1));
    await store.features.put('a', bytes(300, 2));
    expect(store.features.stats()).toMatchObject({ entries: 1, sizeBytes: 300 });
    expect(store.features.get('a')?.[0]).toBe(2);
  });

  it('drops the least recently used first and stays within its bound', async () => {
    const root = open({ path: join(directory, 'clocked') });
    let now = 0;
    const store = new FeatureStore(root, 1000, () => now);
    for (const key of ['old', 'kept', 'newer']) {
      now += 100_000;
      await store.put(key, bytes(300, 1));
    }
    now += 100_000;
    store.get('old'); // now the most recent
    await root.flushed;
    await store.put('newest', bytes(300, 1));
    expect(['old', 'kept', 'newer', 'newest'].map((key) => store.get(key) !== undefined)).toEqual([
      true,
      false,
      true,
      true,
    ]);
    expect(store.stats().sizeBytes).toBe(900);
    await root.close();
  });

  it('tells whether a key has a value, which counts as a use but neither as hit nor as miss', async () => {
    const root = open({ path: join(directory, 'clocked') });
    let now = 0;
    const store = new FeatureStore(root, 1000, () => now);
    for (const key of ['asked for', 'not asked for']) {
      now += 100_000;
      await store.put(key, bytes(400, 1));
    }
    now += 100_000;
    expect([store.has('asked for'), store.has('never put')]).toEqual([true, false]);
    expect(store.stats()).toMatchObject({ hits: 0, misses: 0 });
    await store.put('newest', bytes(400, 1));
    expect([store.has('asked for'), store.has('not asked for')]).toEqual([true, false]);
    await root.close();
  });

  it('does not keep a value beyond the bound, and forgets all on request', async () => {
    await using store = await opened();
    await store.features.put('huge', bytes(1001, 1));
    expect(store.features.stats().entries).toBe(0);
    await store.features.put('a', bytes(1, 1));
    await store.features.clear();
    expect(store.features.stats()).toMatchObject({ entries: 0, sizeBytes: 0 });
  });

  it('is whole after the process that writes is killed', async () => {
    const script = join(directory, 'writer.mjs');
    const lmdb = import.meta.resolve('lmdb');
    await writeFile(
      script,
      `import { open } from ${JSON.stringify(lmdb)};
       const { FeatureStore } = await import(${JSON.stringify(new URL('../../../src/store/feature-store.ts', import.meta.url).href)});
       const store = new FeatureStore(open({ path: ${JSON.stringify(join(directory, 'store-v1'))}, maxDbs: 16 }), 1000);
       for (let i = 0; ; i += 1) { await store.put('k' + (i % 50), new Uint8Array(90)); if (i === 40) process.send('busy'); }`,
    );
    const child = fork(script, { execArgv: ['--import', 'tsx'] });
    await once(child, 'message');
    child.kill('SIGKILL');
    await once(child, 'exit');
    await using store = await opened();
    const { entries, sizeBytes } = store.features.stats();
    expect(entries).toBeGreaterThan(0);
    expect(sizeBytes).toBe(entries * 90);
    expect(sizeBytes).toBeLessThanOrEqual(1000);
    await store.features.put('after', bytes(90, 3));
    expect(store.features.get('after')).toBeDefined();
  });

  it('begins anew, with a warning, when the environment is no environment', async () => {
    await writeFile(join(directory, 'store-v1'), 'this is no LMDB file, but long enough to be read as one'.repeat(200));
    const warnings: string[] = [];
    await using store = await opened({ ...silentLogger, warn: (_fields, message) => warnings.push(message) });
    await store.features.put('a', bytes(1, 1));
    expect(store.features.get('a')).toBeDefined();
    expect(warnings).toHaveLength(1);
  });
});
