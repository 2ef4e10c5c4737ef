#!/usr/bin/env node
/**
 * The command `vision-bridge`.
 *
 * Exit codes: 0 success, 1 a failure that is explained on stderr, 2 wrong usage. With --json an error is one JSON
 * document on stdout too, so that a script always has one to read. 137 where a disk that does not answer keeps the process
 * from ending in another way.
 */
import { Command, CommanderError } from 'commander';
import { BridgeError, messageOf } from '../common/errors.js';
import { readPackageVersion } from '../common/package-version.js';
import { endInTime } from './end.js';
import { printJson } from './output.js';

/** Loaded when named: starting the server should not wait for what the other commands need. */
const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  serve: async () => (await import('./commands/serve.js')).serveCommand(),
  demo: async () => (await import('./commands/demo.js')).demoCommand(),
  encode: async () => (await import('./commands/encode.js')).encodeCommand(),
  ipadapter: async () => (await import('./commands/ipadapter.js')).ipadapterCommand(),
  nodes: async () => (await import('./commands/nodes.js')).nodesCommand(),
  paths: async () => (await import('./commands/paths.js')).pathsCommand(),
  resolve: async () => (await import('./commands/resolve.js')).resolveCommand(),
  stats: async () => (await import('./commands/stats.js')).statsCommand(),
  models: async () => (await import('./commands/models.js')).modelsCommand(),
  info: async () => (await import('./commands/info.js')).infoCommand(),
  doctor: async () => (await import('./commands/doctor.js')).doctorCommand(),
  duplicates: async () => (await import('./commands/duplicates.js')).duplicatesCommand(),
  hash: async () => (await import('./commands/info.js')).hashCommand(),
  usage: async () => (await import('./commands/usage.js')).usageCommand(),
};

async function createProgram(name = ''): Promise<Command> {
  const program = new Command('vision-bridge')
    .description('CLIP vision encoding and model statistics beside ComfyUI')
    .version(readPackageVersion())
    .exitOverride()
    .showHelpAfterError('(add --help for the list of flags)');
  // Help and unknown commands tell of all.
  const loaders = Object.hasOwn(COMMANDS, name) ? [COMMANDS[name]] : Object.values(COMMANDS);
  for (const load of loaders) {
    // Commands that are added ready-made do not inherit this.
    if (load !== undefined) program.addCommand((await load()).exitOverride());
  }
  return program;
}

async function main(argv: readonly string[]): Promise<number> {
  try {
    const program = await createProgram(argv[2]);
    await program.parseAsync(argv);
    // A command that has printed what is wrong says so.
    return Number(process.exitCode ?? 0);
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
endInTime();
