/** `vision-bridge stats`: files and bytes per folder type. */
import { Command } from 'commander';
import { openFolders } from '../../bridge.js';
import { ComfyUIPathResolver } from '../../library/index.js';
import { createLogger } from '../logger.js';
import { addFlags, configOf } from '../options.js';
import { formatBytes, printJson, printTable } from '../output.js';

export function statsCommand(): Command {
  const command = new Command('stats')
    .description('count the model files and their bytes, per folder type')
    .option('--json', 'one JSON document');
  addFlags(command, ['folders']);
  return command.action(async (options: { json?: boolean }) => {
    const { paths } = await openFolders(configOf(command), createLogger('error'));
    const folders = await ComfyUIPathResolver.fromFolderPaths(paths).getStats();
    const total = {
      files: sum(folders.map(({ files }) => files)),
      sizeBytes: sum(folders.map(({ sizeBytes }) => sizeBytes)),
    };
    if (options.json === true) {
      printJson({ folders, total });
      return;
    }
    const rows = folders
      .filter(({ files }) => files > 0)
      .map(({ folder, files, sizeBytes }) => [folder, files, formatBytes(sizeBytes)]);
    printTable(['folder', 'files', 'size'], [...rows, ['total', total.files, formatBytes(total.sizeBytes)]]);
  });
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
