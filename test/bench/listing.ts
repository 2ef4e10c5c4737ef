/**
 * Listing 22,294 files in 400 folders: first, again, and from memory while watched; medians of five processes each.
 *
 *     npx tsx test/bench/listing.ts [PYTHON COMFYUI_CHECKOUT]
 *
 * With a Python and a checkout of ComfyUI, its own get_filename_list is timed on the same tree in the same run, by turns.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FolderPaths } from '../../src/paths/index.js';

const FILES = 22_294;
const FOLDERS = 400;
const PROCESSES = 5;
const ENDINGS = ['.safetensors', '.txt', '.png', '.json'];

interface Figures {
  readonly first: number;
  readonly again: number;
  readonly memory?: number;
  readonly files: number;
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;

/** One process's worth: run with the folder as the only argument. */
async function measure(folder: string): Promise<Figures> {
  const paths = FolderPaths.ofFolders(new Map([['misc', [folder]]]));
  const timed = async (): Promise<number> => {
    const begin = performance.now();
    await paths.list('misc');
    return performance.now() - begin;
  };
  const repeat = async (): Promise<number> => {
    const times: number[] = [];
    for (let i = 0; i < 201; i += 1) times.push(await timed());
    return median(times);
  };
  const first = await timed();
  const again = await repeat();
  await paths.watch(() => undefined);
  const memory = await repeat();
  const files = (await paths.list('misc')).length;
  await paths[Symbol.asyncDispose]();
  return { first, again, memory, files };
}

const [mode, folderOrCheckout = ''] = process.argv.slice(2);
if (mode === '--measure') {
  console.log(JSON.stringify(await measure(folderOrCheckout)));
} else {
  const python = mode;
  const folder = mkdtempSync(join(tmpdir(), 'vision-bridge-listing-'));
  try {
    for (let i = 0; i < FILES; i += 1) {
      const place = i % FOLDERS;
      const sub = join(folder, `p${place % 20}`, `q${Math.floor(place / 20)}`);
      if (i < FOLDERS) mkdirSync(sub, { recursive: true });
      writeFileSync(join(sub, `f${String(i).padStart(5, '0')}${ENDINGS[i % ENDINGS.length] ?? ''}`), '');
    }
    const ours: Figures[] = [];
    const theirs: Figures[] = [];
    const script = new URL('./folder_paths_reference.py', import.meta.url).pathname;
    const self = new URL(import.meta.url).pathname;
    const run = (command: string, args: readonly string[]): Figures =>
      JSON.parse(
        execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
          .trim()
          .split('\n')
          .at(-1) ?? '',
      ) as Figures;
    for (let i = 0; i < PROCESSES; i += 1) {
      ours.push(run(process.execPath, ['--import', import.meta.resolve('tsx'), self, '--measure', folder]));
      if (python !== undefined) theirs.push(run(python, [script, folderOrCheckout, folder]));
    }
    const print = (label: string, figures: readonly Figures[], key: 'first' | 'again' | 'memory'): void => {
      console.log(`${label.padEnd(34)} ${median(figures.map((entry) => entry[key] ?? NaN)).toFixed(2)} ms`);
    };
    console.log(
      `${ours[0]?.files ?? 0} files in ${FOLDERS} folders, page cache warm, medians of ${PROCESSES} processes`,
    );
    print('vision-bridge, first', ours, 'first');
    if (theirs.length > 0) print('ComfyUI, first', theirs, 'first');
    print('vision-bridge, again', ours, 'again');
    if (theirs.length > 0) print('ComfyUI, again', theirs, 'again');
    print('vision-bridge, watched', ours, 'memory');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
