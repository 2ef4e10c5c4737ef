/** A registry over a throw-away tree. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openRegistry } from '../../src/bridge.js';
import { silentLogger } from '../../src/common/logger.js';
import { modelRoots } from '../../src/library/index.js';
import { FolderPaths } from '../../src/paths/index.js';
import type { ModelRegistry } from '../../src/registry/index.js';

export interface TestRegistry extends AsyncDisposable {
  /** Holds `models/` and the data folder. */
  readonly root: string;
  readonly models: string;
  readonly registry: ModelRegistry;
  /** Another registry over the same files and store, as another process or a restart has it. */
  reopen(): { readonly registry: ModelRegistry } & AsyncDisposable;
}

export async function makeTestRegistry(): Promise<TestRegistry> {
  const root = await mkdtemp(join(tmpdir(), 'registry-'));
  const open = (): { readonly registry: ModelRegistry } & AsyncDisposable =>
    openRegistry({
      roots: () => modelRoots(new FolderPaths({ installDirectory: root })),
      dataDirectory: join(root, 'data'),
      logger: silentLogger,
    });
  const first = open();
  return {
    root,
    models: join(root, 'models'),
    registry: first.registry,
    reopen: open,
    async [Symbol.asyncDispose]() {
      await first[Symbol.asyncDispose]();
      await rm(root, { recursive: true, force: true });
    },
  };
}
