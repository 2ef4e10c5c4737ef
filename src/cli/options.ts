/** Adds the flags of config.ts to commands and turns what commander read into a BridgeConfig. */
import { Option, type Command } from 'commander';
import { FLAGS, parseConfig, type BridgeConfig, type Flag } from '../config.js';

/** Gives a command the flags of some groups. */
export function addFlags(command: Command, groups: readonly Flag['group'][]): Command {
  for (const flag of FLAGS) {
    if (!groups.includes(flag.group)) continue;
    const suffix = flag.defaultText === undefined ? '' : ` (default: ${flag.defaultText})`;
    command.addOption(new Option(flag.usage, flag.description + suffix));
  }
  return command;
}

/** The configuration of a command that has flags of config.ts. @throws {InvalidRequestError} */
export function configOf(command: Command): BridgeConfig {
  return parseConfig(command.opts());
}
