/** `vision-bridge usage`: which models the pictures of the output folder were made with, and which none was. */
import { Command } from 'commander';
import { countUsage, findPictureWorkflows, usageJson } from '../../library/index.js';
import { addFlags } from '../options.js';
import { formatBytes, printJson, printLine, printTable } from '../output.js';
import { withRegistry } from '../registry-session.js';

const SHOWN = 50;

export function usageCommand(): Command {
  const command = new Command('usage')
    .description('which models were used, from the workflows in the pictures of the output folder, and which were not')
    .option('--json', 'one JSON document');
  addFlags(command, ['folders']);
  return command.action(async (options: { json?: boolean }) => {
    await withRegistry(command, async ({ registry, paths }) => {
      const usage = countUsage(await findPictureWorkflows(paths.outputDirectory), registry.entries());
      if (options.json === true) {
        printJson(usageJson(usage));
        return;
      }
      printLine(`${usage.workflows} workflows in ${paths.outputDirectory}`);
      printTable(
        ['used', 'last', 'model'],
        usage.used
          .slice(0, SHOWN)
          .map(({ model, count, lastUsed }) => [
            count,
            new Date(lastUsed).toISOString().slice(0, 10),
            `${model.folder}/${model.name}`,
          ]),
      );
      printLine(`\nNot used: ${usage.unused.length} files, ${formatBytes(usage.unusedBytes)}`);
      printTable(
        ['size', 'model'],
        usage.unused
          .slice(0, SHOWN)
          .map(({ folder, name, sizeBytes }) => [formatBytes(sizeBytes), `${folder}/${name}`]),
      );
    });
  });
}
