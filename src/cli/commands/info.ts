/** `vision-bridge info` and `hash`: everything about one file. */
import { Command } from 'commander';
import { modelJson } from '../../library/index.js';
import { MODEL_FIELDS } from '../../registry/index.js';
import { addFlags } from '../options.js';
import { formatBytes, printJson, printLine } from '../output.js';
import { createProgressLine, findFile, plainText, withRegistry } from '../registry-session.js';

export function infoCommand(): Command {
  const command = new Command('info')
    .description('what one model file is, from its header')
    .argument('<file>', 'folder/name, a path, or the end of one')
    .option('--json', 'one JSON document');
  addFlags(command, ['folders']);
  return command.action(async (name: string, options: { json?: boolean }) => {
    await withRegistry(command, async (session) => {
      const entry = findFile(session, name);
      const details = await session.registry.details(entry);
      const hashes = await session.registry.knownHashes(entry);
      const model = {
        ...modelJson(entry, Object.keys(MODEL_FIELDS)),
        details: details ?? null,
        hashes: hashes ?? null,
      };
      if (options.json === true) {
        printJson(model);
        return;
      }
      const { facts, ...reading } = details ?? {};
      printFields('', { ...modelJson(entry, Object.keys(MODEL_FIELDS)), ...reading, ...facts, ...(hashes ?? {}) });
    });
  });
}

/** Names and values, one per line; what is unknown is left out. */
function printFields(prefix: string, value: object): void {
  for (const [name, entry] of Object.entries(value) as [string, unknown][]) {
    if (entry === null || entry === undefined) continue;
    if (typeof entry === 'object' && !Array.isArray(entry)) printFields(`${prefix}${name}.`, entry);
    else printLine(`${`${prefix}${name}`.padEnd(28)} ${plainText(entry)}`);
  }
}

export function hashCommand(): Command {
  const command = new Command('hash')
    .description(
      'hashes of model files: sha256, AutoV1, AutoV2, AutoV3, CRC32; kept, so that the second time is at once',
    )
    .argument('<file...>', 'folder/name, a path, or the end of one')
    .option('--json', 'one JSON document');
  addFlags(command, ['folders']);
  return command.action(async (names: readonly string[], options: { json?: boolean }) => {
    await withRegistry(command, async (session) => {
      const hashed: Record<string, unknown>[] = [];
      for (const name of names) {
        const entry = findFile(session, name);
        const line = createProgressLine();
        const hashes = await session.registry.hash(entry, {
          onProgress: (done) => {
            line.show(`${entry.name}: ${formatBytes(done)} of ${formatBytes(entry.sizeBytes)}`);
          },
        });
        line.clear();
        hashed.push({ path: entry.path, ...hashes });
      }
      if (options.json === true) printJson(hashed);
      else for (const entry of hashed) printFields('', entry);
    });
  });
}
