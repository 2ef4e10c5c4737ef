#!/usr/bin/env node
/**
 * The command `vision-bridge`.
 *
 * Exit codes: 0 success, 1 a failure that is explained on stderr, 2 wrong usage. With --json an error is one JSON
 * document on stdout too, so that a script always has one to read.
 */
import { Command, CommanderError } from 'commander';
import { BridgeError, messageOf } from '../common/errors.js';
import { demoCommand } from './commands/demo.js';
import { doctorCommand } from './commands/doctor.js';
import { duplicatesCommand } from './commands/duplicates.js';
import { encodeCommand } from './commands/encode.js';
import { ipadapterCommand } from './commands/ipadapter.js';
import { nodesCommand } from './commands/nodes.js';
import { modelsCommand } from './commands/models.js';
import { usageCommand } from './commands/usage.js';
import { hashCommand, infoCommand } from './commands/info.js';
import { pathsCommand } from './commands/paths.js';
import { resolveCommand } from './commands/resolve.js';
import { serveCommand } from './commands/serve.js';
import { statsCommand } from './commands/stats.js';
import { printJson } from './output.js';
import { readPackageVersion } from '../common/package-version.js';

function createProgram(): Command {
  const program = new Command('vision-bridge')
    .description('CLIP vision encoding and model statistics beside ComfyUI')
    .version(readPackageVersion())
    .exitOverride()
    .showHelpAfterError('(add --help for the list of flags)');
  for (const command of [
    serveCommand(),
    demoCommand(),
    encodeCommand(),
    ipadapterCommand(),
    nodesCommand(),
    pathsCommand(),
    resolveCommand(),
    statsCommand(),
    modelsCommand(),
    infoCommand(),
    doctorCommand(),
    duplicatesCommand(),
    hashCommand(),
    usageCommand(),
  ]) {
    // Commands that are added ready-made do not inherit this.
    program.addCommand(command.exitOverride());
  }
  return program;
}

async function main(argv: readonly string[]): Promise<number> {
  try {
    await createProgram().parseAsync(argv);
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    if (!(error instanceof BridgeError)) {
      process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : messageOf(error)}\n`);
      return 1;
    }
    if (argv.includes('--json')) {
      printJson({ error: { code: error.code, message: error.message, details: error.details } });
    }
    process.stderr.write(`error ${error.code}: ${error.message}\n`);
    return error.code === 'INVALID_REQUEST' ? 2 : 1;
  }
}

process.exitCode = await main(process.argv);
