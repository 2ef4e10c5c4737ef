/** `vision-bridge nodes`: the nodes that are served; with --json the document that the ComfyUI pack is built from. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { createBridge } from '../../bridge.js';
import { parseConfig } from '../../config.js';
import { describeNodes } from '../../nodes/index.js';
import { createLogger } from '../logger.js';
import { printJson } from '../output.js';
import { printTable } from '../table.js';

export function nodesCommand(): Command {
  return new Command('nodes')
    .description('list the nodes that are served')
    .option('--json', 'the nodes of our own, as the ComfyUI pack reads them')
    .action(async (options: { json?: boolean }) => {
      // Definitions depend on no folder: an empty one will do, and no installation is needed.
      const folder = await mkdtemp(join(tmpdir(), 'vision-bridge-nodes-'));
      try {
        const config = parseConfig({ baseDirectory: folder, dataDirectory: join(folder, 'data') });
        await using bridge = await createBridge(config, createLogger('error'));
        if (options.json === true) printJson(await describeNodes(bridge.nodes));
        else
          printTable(
            ['class', 'name', 'category'],
            [...bridge.nodes.values()].map(({ classType, displayName, category }) => [
              classType,
              displayName ?? classType,
              category,
            ]),
          );
      } finally {
        await rm(folder, { recursive: true, force: true });
      }
    });
}
