/** What the commands about model files share: the user's folders, a scanned registry, and progress on the terminal. */
import { type Command } from 'commander';
import { dataDirectoryOf, openSoundFolders, openRegistry } from '../bridge.js';
import { InvalidRequestError, ModelNotFoundError } from '../common/errors.js';
import { modelRoots, type UsageTracker } from '../library/index.js';
import type { FolderPaths } from '../paths/index.js';
import type { ModelEntry, ModelRegistry } from '../registry/index.js';
import { createLogger } from './logger.js';
import { configOf } from './options.js';
import { printJson, printLine } from './output.js';
import { printTable } from './table.js';

export interface RegistrySession {
  readonly registry: ModelRegistry;
  readonly paths: FolderPaths;
  readonly usage: UsageTracker;
}

/** Scans the folders that the flags name, then does the work. */
export async function withRegistry(command: Command, work: (session: RegistrySession) => Promise<void>): Promise<void> {
  const config = configOf(command);
  const logger = createLogger('error');
  const { paths } = await openSoundFolders(config, logger);
  await using owned = openRegistry({ roots: () => modelRoots(paths), dataDirectory: dataDirectoryOf(config), logger });
  const { registry } = owned;
  const bar = createProgressLine();
  const unsubscribe = registry.subscribe(({ state, files, known }) => {
    if (state === 'reading') bar.show(`reading model files: ${known} of ${files}`);
  });
  await registry.refresh();
  unsubscribe();
  bar.clear();
  const { comfyuiUrl } = config;
  await work({ registry, paths, usage: owned.trackUsage({ outputDirectory: paths.outputDirectory, comfyuiUrl }) });
}

interface ProgressLine {
  show(text: string): void;
  clear(): void;
}

/** One line on stderr that is written over; nothing where stderr is no terminal. */
export function createProgressLine(): ProgressLine {
  const { stderr } = process;
  let isShown = false;
  return {
    show(text) {
      if (!stderr.isTTY) return;
      isShown = true;
      stderr.write(`\r\u001b[K${text}`);
    },
    clear() {
      if (isShown) stderr.write('\r\u001b[K');
    },
  };
}

/** A file by `folder/name`, by its path, or by the end of its path if only one ends so. @throws {ModelNotFoundError} */
export function findFile({ registry }: RegistrySession, text: string): ModelEntry {
  const wanted = text.replaceAll('\\', '/');
  const entries = registry.entries();
  const exact = entries.find(({ folder, name, path }) => path === wanted || `${folder}/${name}` === wanted);
  if (exact !== undefined) return exact;
  const tail = wanted.startsWith('/') ? wanted : `/${wanted}`;
  const ends = entries.filter(({ path, shards }) =>
    (shards?.parts ?? [{ path }]).some((part) => part.path.endsWith(tail)),
  );
  const files = new Set(ends.map(({ file }) => file));
  const [first] = ends;
  if (first !== undefined && files.size === 1) return first;
  if (files.size > 1) {
    const names = ends.slice(0, 5).map(({ path }) => path);
    throw new InvalidRequestError(
      `"${text}" is the name of ${files.size} files: ${names.join(', ')}. Name one by its path.`,
    );
  }
  throw new ModelNotFoundError(`No model file is called "${text}".`, { details: { name: text } });
}

export const OUTPUT_FORMATS = ['table', 'json', 'csv'] as const;
export type OutputFormat = (typeof OUTPUT_FORMATS)[number];

/** Rows of plain values as a table, as JSON objects or as CSV. */
export function printRows(
  format: OutputFormat,
  columns: readonly string[],
  rows: readonly Readonly<Record<string, unknown>>[],
  show: (column: string, value: unknown) => string | number,
): void {
  if (format === 'json') {
    printJson(rows);
    return;
  }
  if (format === 'csv') {
    printLine(columns.map(csvCell).join(','));
    for (const row of rows) printLine(columns.map((column) => csvCell(plainText(row[column]))).join(','));
    return;
  }
  printTable(
    columns,
    rows.map((row) => columns.map((column) => show(column, row[column]))),
  );
}

export function plainText(value: unknown): string {
  if (value === null || value === undefined) return '';
  if (Array.isArray(value)) return value.map(plainText).join('; ');
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function csvCell(text: string): string {
  // A cell that begins like a formula would be run by spreadsheets.
  const safe = /^[=+\-@]/.test(text) && !/^-?\d/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
