/** `vision-bridge usage`: which models were used, how often and when last, and which were not. */
import { Command } from 'commander';
import { usageJson } from '../../library/index.js';
import { addFlags } from '../options.js';
import { formatBytes, printJson, printLine } from '../output.js';
import { printTable } from '../table.js';
import { withRegistry } from '../registry-session.js';

const SHOWN = 50;

export function usageCommand(): Command {
  const command = new Command('usage')
    .description(
      'which models were used, by the history of a running ComfyUI (--comfyui-url) and the pictures of the output folder, and which were not',
    )
    .option('--json', 'one JSON document');
  addFlags(command, ['folders']);
  return command.action(async (options: { json?: boolean }) => {
    await withRegistry(command, async ({ registry, usage: tracker }) => {
      const usage = await tracker.usage(registry.entries());
      if (options.json === true) {
        printJson(usageJson(usage));
        return;
      }
      for (const problem of usage.problems) process.stderr.write(`warning: ${problem}\n`);
      const sources = [usage.comfyuiUrl ?? [], usage.outputDirectory].flat();
      printLine(`${usage.runs} runs, by ${sources.join(' and ')}`);
      printTable(
        ['runs', 'last', 'workflows', 'model'],
        usage.used
          .slice(0, SHOWN)
          .map(({ model, count, lastUsedMs, workflowIds }) => [
            count,
            new Date(lastUsedMs).toISOString().slice(0, 10),
            workflowIds.length,
            `${model.folder}/${model.name}`,
          ]),
      );
      if (usage.gone.length > 0) printLine('\nUsed, and gone:');
      for (const { name, count } of usage.gone.slice(0, SHOWN)) printLine(`  ${name} (${count})`);
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
