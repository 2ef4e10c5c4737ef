/** `vision-bridge stats`: files, bytes and parameters, grouped. */
import { Command, Option } from 'commander';
import { statsJson } from '../../library/index.js';
import { STAT_GROUPINGS } from '../../protocol/registry.js';
import { STATS, type Grouping, type StatName } from '../../registry/index.js';
import { addFlags } from '../options.js';
import { formatBytes, formatCount, printJson } from '../output.js';
import { OUTPUT_FORMATS, printRows, withRegistry, type OutputFormat } from '../registry-session.js';

interface StatsOptions {
  readonly by: Grouping;
  readonly json?: boolean;
  readonly format: OutputFormat;
}

export function statsCommand(): Command {
  const command = new Command('stats')
    .description('count the model files, their bytes and parameters')
    .addOption(new Option('--by <what>', 'group by').choices(STAT_GROUPINGS).default('folder'))
    .addOption(new Option('--format <form>', 'how to print').choices(OUTPUT_FORMATS).default('table'))
    .option('--json', 'one JSON document');
  addFlags(command, ['folders']);
  return command.action(async ({ by, json, format }: StatsOptions) => {
    await withRegistry(command, ({ registry }) => {
      const stats = registry.stats(by);
      if (json === true || format === 'json') {
        printJson(statsJson(stats));
        return Promise.resolve();
      }
      const names = (Object.keys(STATS) as StatName[]).filter(
        (name) => name === 'files' || name === 'sizeBytes' || stats.total[name] > 0,
      );
      const rows = [...stats.groups, { group: 'total', ...stats.total }].map((group) => {
        const row: Record<string, string | number> = { [by]: group.group };
        for (const name of names) row[STATS[name].label] = group[name];
        return row;
      });
      const units = new Map<string, string>(names.map((name) => [STATS[name].label, STATS[name].unit]));
      printRows(format, [by, ...units.keys()], rows, (column, value) => {
        if (typeof value !== 'number') return String(value);
        const unit = units.get(column);
        return unit === 'bytes' ? formatBytes(value) : unit === 'parameters' ? formatCount(value) : value;
      });
      return Promise.resolve();
    });
  });
}
