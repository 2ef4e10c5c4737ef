/** `vision-bridge duplicates`: files with the same content, and what deleting all but one would free. */
import { Command } from 'commander';
import { duplicatesJson } from '../../library/index.js';
import { findDuplicates } from '../../registry/index.js';
import { addFlags } from '../options.js';
import { formatBytes, printJson, printLine } from '../output.js';
import { createProgressLine, withRegistry } from '../registry-session.js';

export function duplicatesCommand(): Command {
  const command = new Command('duplicates')
    .description('find files with the same content; links are none')
    .option('--json', 'one JSON document');
  addFlags(command, ['folders']);
  return command.action(async (options: { json?: boolean }) => {
    await withRegistry(command, async ({ registry }) => {
      const line = createProgressLine();
      const found = await findDuplicates(registry, registry.entries(), {
        onProgress: (done, total) => {
          line.show(`comparing: ${formatBytes(done)} of ${formatBytes(total)}`);
        },
      });
      line.clear();
      if (options.json === true) {
        printJson(duplicatesJson(found));
        return;
      }
      for (const { files, sizeBytes, sha256 } of found.groups) {
        printLine(`${formatBytes(sizeBytes)} each, sha256 ${sha256.slice(0, 10)}`);
        for (const { path } of files) printLine(`  ${path}`);
      }
      for (const problem of found.problems) process.stderr.write(`warning: ${problem}\n`);
      printLine(
        found.groups.length === 0
          ? 'No file is there twice.'
          : `${formatBytes(found.reclaimableBytes)} can be freed in ${found.groups.length} ${found.groups.length === 1 ? 'group' : 'groups'}.`,
      );
    });
  });
}
