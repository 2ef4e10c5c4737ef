/** A registry over a throw-away tree. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openRegistry, type OwnedRegistry } from '../../src/bridge.js';
import { silentLogger } from '../../src/common/logger.js';
import { modelRoots } from '../../src/library/index.js';
import { FolderPaths } from '../../src/paths/index.js';

export interface TestRegistry extends OwnedRegistry {
  /** Holds `models/` and the data folder. */
  readonly root: string;
  readonly models: string;
  /** Another registry over the same files and store, as another process or a restart has it. */
  reopen(): OwnedRegistry;
}

export async function makeTestRegistry(): Promise<TestRegistry> {
  const root = await mkdtemp(join(tmpdir(), 'registry-'));
  const open = (): OwnedRegistry =>
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
    trackUsage: (options) => first.trackUsage(options),
    reopen: open,
    async [Symbol.asyncDispose]() {
      await first[Symbol.asyncDispose]();
      await rm(root, { recursive: true, force: true });
    },
  };
}
