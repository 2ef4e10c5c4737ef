/** `vision-bridge resolve FOLDER NAME`: the file that ComfyUI would open. */
import { Command } from 'commander';
import { openSoundFolders } from '../../bridge.js';
import { adapterFolders } from '../../library/index.js';
import { createLogger } from '../logger.js';
import { addFlags, configOf } from '../options.js';
import { printJson, printLine } from '../output.js';

export function resolveCommand(): Command {
  const command = new Command('resolve')
    .description('print the absolute path that ComfyUI would open for a model name')
    .argument(
      '<folder>',
      'folder type, such as clip_vision; also ipadapter, and insightface for packs of face networks',
    )
    .argument('<name>', 'model name, as a workflow has it')
    .option('--json', 'one JSON document');
  addFlags(command, ['folders']);
  return command.action(async (folder: string, name: string, options: { json?: boolean }) => {
    const { paths } = await openSoundFolders(configOf(command), createLogger('error'));
    const { adapters, facePacks } = adapterFolders(paths);
    // Customary folders of extensions, which are no types of ComfyUI's own.
    const source = new Map([
      ['ipadapter', adapters],
      ['insightface', facePacks],
    ]).get(folder);
    const path = source === undefined ? await paths.resolve(folder, name) : await source.resolve(name);
    if (options.json === true) printJson({ folder, name, path });
    else printLine(path);
  });
}
