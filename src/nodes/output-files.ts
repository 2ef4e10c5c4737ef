/**
 * Numbered files in an output folder, counted as ComfyUI counts images: `<prefix>_00001_.<ending>`.
 *
 * Files are created exclusively: where ComfyUI and we count at the same time, the counter goes on.
 *
 * Source: ComfyUI, folder_paths.py, `get_save_image_path`.
 */
import { mkdir, open, readdir } from 'node:fs/promises';
import { basename, dirname, join, normalize, resolve, sep } from 'node:path';
import { systemCodeOf } from '../common/errors.js';
import { PythonError } from '../graph/index.js';
import { resolveInside } from '../paths/index.js';

interface NumberedFile {
  readonly filename: string;
  /** Relative to the folder, empty at its top. */
  readonly subfolder: string;
}

export interface OutputSeries {
  /** Writes the next file of the series, the `batchNumber`th of its batch. */
  write(bytes: Uint8Array, ending: string, batchNumber?: number): Promise<NumberedFile>;
}

export interface ImageSize {
  readonly width: number;
  readonly height: number;
}

const COUNTER_DIGITS = 5;

/**
 * Begins a series of files with a prefix, which may hold folders and `%date%`-like variables.
 *
 * @throws {PythonError} of type `Exception` when the prefix leaves the folder, as in ComfyUI.
 */
export async function beginOutputSeries(
  folder: string,
  prefix: string,
  size: ImageSize,
  now = new Date(),
): Promise<OutputSeries> {
  const expanded = normalize(expandVariables(prefix, size, now));
  const subfolder = dirname(expanded) === '.' ? '' : dirname(expanded);
  const stem = basename(expanded);
  const target = resolveInside(folder, subfolder);
  if (target === undefined) throw savingOutside(folder, resolve(folder, subfolder));
  await mkdir(target, { recursive: true });
  let counter = (await highestCounter(target, stem)) + 1;
  return {
    async write(bytes, ending, batchNumber = 0) {
      for (; ; counter += 1) {
        const filename = `${stem.replaceAll('%batch_num%', String(batchNumber))}_${String(counter).padStart(COUNTER_DIGITS, '0')}_.${ending}`;
        try {
          const file = await open(join(target, filename), 'wx');
          try {
            await file.writeFile(bytes);
          } finally {
            await file.close();
          }
          counter += 1;
          return { filename, subfolder };
        } catch (error) {
          if (systemCodeOf(error) !== 'EEXIST') throw error;
        }
      }
    },
  };
}

/** In ComfyUI's words, which clients may know. */
function savingOutside(folder: string, target: string): PythonError {
  const parts = target.split(sep);
  const inner = folder.split(sep);
  const shared = parts.findIndex((part, i) => part !== inner[i]);
  const common = parts.slice(0, shared === -1 ? parts.length : shared).join(sep) || sep;
  return new PythonError(
    'Exception',
    '**** ERROR: Saving image outside the output folder is not allowed.' +
      `\n full_output_folder: ${target}\n         output_dir: ${folder}\n         commonpath: ${common}`,
  );
}

async function highestCounter(folder: string, stem: string): Promise<number> {
  let highest = 0;
  for (const name of await readdir(folder)) {
    if (!name.startsWith(`${stem}_`)) continue;
    const [digits = ''] = name.slice(stem.length + 1).split('_');
    if (/^\d+$/.test(digits)) highest = Math.max(highest, Number(digits));
  }
  return highest;
}

function expandVariables(prefix: string, { width, height }: ImageSize, now: Date): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  const values: Readonly<Record<string, string>> = {
    '%width%': String(width),
    '%height%': String(height),
    '%year%': String(now.getFullYear()),
    '%month%': two(now.getMonth() + 1),
    '%day%': two(now.getDate()),
    '%hour%': two(now.getHours()),
    '%minute%': two(now.getMinutes()),
    '%second%': two(now.getSeconds()),
  };
  return prefix.replaceAll(/%\w+%/g, (variable) => values[variable] ?? variable);
}
