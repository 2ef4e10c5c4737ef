/** `vision-bridge ipadapter …`: IP-Adapters without a server. */
import { Command } from 'commander';
import { combineCommand } from './ipadapter/combine.js';
import { inspectCommand } from './ipadapter/inspect.js';
import { projectCommand } from './ipadapter/project.js';

export function ipadapterCommand(): Command {
  const command = new Command('ipadapter').description('IP-Adapters: recognise, project, combine');
  // Commands that are added ready-made do not inherit this.
  for (const part of [projectCommand(), combineCommand(), inspectCommand()]) command.addCommand(part.exitOverride());
  return command;
}
