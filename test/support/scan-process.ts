/** A process that scans a tree into a store and prints what it found: for tests that kill it. */
import { openRegistry } from '../../src/bridge.js';
import { silentLogger } from '../../src/common/logger.js';
import { modelRoots } from '../../src/library/index.js';
import { FolderPaths } from '../../src/paths/index.js';

const [root = '', dataDirectory = ''] = process.argv.slice(2);
await using owned = openRegistry({
  roots: () => modelRoots(new FolderPaths({ installDirectory: root })),
  dataDirectory,
  logger: silentLogger,
});
process.stdout.write('started\n');
const { files, read } = await owned.registry.scan();
process.stdout.write(`${JSON.stringify({ files, read, total: owned.registry.stats('kind').total })}\n`);
