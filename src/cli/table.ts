/** Lists of a command, as a table on stdout. */
import Table from 'cli-table3';
import { printLine } from './output.js';

/** A plain table without frames, readable by people and by `awk`. */
export function printTable(head: readonly string[], rows: readonly (readonly (string | number)[])[]): void {
  const none = '';
  const table = new Table({
    head: [...head],
    chars: {
      top: none,
      'top-mid': none,
      'top-left': none,
      'top-right': none,
      bottom: none,
      'bottom-mid': none,
      'bottom-left': none,
      'bottom-right': none,
      left: none,
      'left-mid': none,
      mid: none,
      'mid-mid': none,
      right: none,
      'right-mid': none,
      middle: '  ',
    },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
    colAligns: head.map((_title, column) => (typeof rows[0]?.[column] === 'number' ? 'right' : 'left')),
  });
  table.push(...rows.map((row) => [...row]));
  const lines = table.toString().split('\n');
  printLine(lines.map((line) => line.trimEnd()).join('\n'));
}
