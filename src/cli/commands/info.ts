/** `vision-bridge info` and `hash`: everything about one file. */
import { Command } from 'commander';
import { hashesJson, modelDetailsJson, valuesJson } from '../../library/index.js';
import type { ModelEntry } from '../../registry/index.js';
import { addFlags } from '../options.js';
import { formatBytes, printJson, printLine } from '../output.js';
import { createProgressLine, findFile, plainText, withRegistry } from '../registry-session.js';

interface InfoOptions {
  readonly checkValues?: boolean;
  readonly json?: boolean;
}

export function infoCommand(): Command {
  const command = new Command('info')
    .description('what one model is, from its header and what lies beside it')
    .argument('<file>', 'folder/name, a path, or the end of one')
    .option('--check-values', 'read it whole and count NaN and infinity per tensor')
    .option('--json', 'one JSON document');
  addFlags(command, ['folders']);
  return command.action(async (name: string, options: InfoOptions) => {
    await withRegistry(command, async (session) => {
      const entry = findFile(session, name);
      const { registry } = session;
      const values =
        options.checkValues === true
          ? { values: valuesJson(await registry.contents.checkValues(entry, readingProgress(entry))) }
          : {};
      const model = { ...(await modelDetailsJson(registry, entry)), ...values };
      if (options.json === true) {
        printJson(model);
        return;
      }
      const { details, ...rest } = model as typeof model & { readonly details?: { readonly facts?: object } | null };
      const { facts, ...reading } = details ?? {};
      printFields('', { ...rest, ...reading, ...facts });
    });
  });
}

/** A line on the terminal that goes away at the end. */
function readingProgress({ name, sizeBytes }: ModelEntry): { readonly onProgress: (done: number) => void } {
  const line = createProgressLine();
  return {
    onProgress: (done) => {
      if (done < sizeBytes) line.show(`${name}: ${formatBytes(done)} of ${formatBytes(sizeBytes)}`);
      else line.clear();
    },
  };
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
      'hashes of model files: sha256, AutoV1, AutoV2, AutoV3, BLAKE3, CRC32; kept, so that the second time is at once',
    )
    .argument('<file...>', 'folder/name, a path, or the end of one')
    .option('--json', 'one JSON document');
  addFlags(command, ['folders']);
  return command.action(async (names: readonly string[], options: { json?: boolean }) => {
    await withRegistry(command, async (session) => {
      const hashed: Record<string, unknown>[] = [];
      for (const name of names) {
        const found = findFile(session, name);
        for (const entry of found.shards?.parts ?? [found]) {
          const hashes = await session.registry.hash(entry, readingProgress(entry));
          const details = await session.registry.details(entry);
          hashed.push({ path: entry.path, ...hashesJson(hashes, entry, details) });
        }
      }
      if (options.json === true) printJson(hashed);
      else for (const entry of hashed) printFields('', entry);
    });
  });
}
