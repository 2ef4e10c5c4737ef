/** `vision-bridge paths`: folders in search order, where each comes from, and their files. */
import { Command } from 'commander';
import { openFolders } from '../../bridge.js';
import { customaryFolders } from '../../library/index.js';
import type { FolderPaths, Origin } from '../../paths/index.js';
import { createLogger } from '../logger.js';
import { addFlags, configOf } from '../options.js';
import { printJson, printLine } from '../output.js';
import { printTable } from '../table.js';

export function pathsCommand(): Command {
  const command = new Command('paths')
    .description('show the model folders in the order in which they are searched, and where each comes from')
    .option('--list', 'their files as well')
    .option('--json', 'one JSON document');
  addFlags(command, ['folders']);
  return command.action(async (options: { list?: boolean; json?: boolean }) => {
    const { installation, running, paths } = await openFolders(configOf(command), createLogger('warn'));
    const folders = await Promise.all(paths.names().map((name) => describeFolder(paths, name, options.list === true)));
    const isBroken = paths.problems.some(({ severity }) => severity === 'error');
    if (options.json === true) {
      printJson({
        comfyui: installation ?? null,
        running: running === undefined ? null : { url: running.url, version: running.version },
        baseDirectory: paths.baseDirectory,
        configFiles: paths.configFiles,
        folders,
        customary: customaryFolders(paths),
        problems: paths.problems,
      });
      if (isBroken) process.exitCode = 1;
      return;
    }
    printLine(
      installation === undefined
        ? `Base folder: ${paths.baseDirectory}`
        : `ComfyUI ${installation.version ?? '(version unknown)'} in ${installation.root}, found by ${installation.foundBy}`,
    );
    if (running !== undefined) printLine(`Folders as the ComfyUI ${running.version ?? ''} at ${running.url} has them`);
    for (const file of paths.configFiles) printLine(`Configuration: ${file}`);
    printLine();
    printTable(
      ['type', 'folder', 'from'],
      [
        ...folders.flatMap(({ name, folders: list }) =>
          list.map(({ path, origin }, i) => [i === 0 ? name : '', path, describeOrigin(origin)]),
        ),
        ...customaryFolders(paths).flatMap(({ name, folders: list }) =>
          list.map((path, i) => [i === 0 ? name : '', path, 'beside clip_vision, for extensions']),
        ),
      ],
    );
    if (options.list === true) {
      for (const { name, files = [] } of folders.filter(({ files: list }) => (list?.length ?? 0) > 0)) {
        printLine(`\n${name}`);
        for (const file of files) printLine(`  ${file}`);
      }
    }
    for (const { severity, file, line, column, message } of paths.problems) {
      process.stderr.write(`${severity}: ${file}${line === undefined ? '' : `:${line}:${column ?? 1}`}: ${message}\n`);
    }
    if (isBroken) process.exitCode = 1;
  });
}

interface FolderDescription {
  readonly name: string;
  readonly extensions: readonly string[];
  readonly folders: readonly { readonly path: string; readonly origin: Origin }[];
  readonly files?: readonly string[];
}

async function describeFolder(paths: FolderPaths, name: string, withFiles: boolean): Promise<FolderDescription> {
  const described = { name, extensions: [...paths.extensions(name)].sort(), folders: paths.folders(name) };
  return withFiles ? { ...described, files: await paths.list(name) } : described;
}

function describeOrigin(origin: Origin): string {
  switch (origin.kind) {
    case 'default':
      return 'default';
    case 'output':
      return 'below the output folder';
    case 'config':
      return `${origin.file}:${origin.line} (${origin.section})`;
    case 'running':
      return origin.url;
    case 'library':
      return 'given by the program';
  }
}
