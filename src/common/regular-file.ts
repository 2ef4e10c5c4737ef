/**
 * Opens regular files and nothing else. Opening a pipe waits for whoever writes into it, maybe for ever, and with it one
 * of the few threads that Node has for files; opening a device may do anything.
 */
import { closeSync, constants, fstatSync, openSync, statSync, type Stats } from 'node:fs';
import { open, stat, type FileHandle } from 'node:fs/promises';

/** Where a pipe took the place of the file after it was looked at, opening does not wait. Windows has no such flag. */
const READ_ONLY = constants.O_RDONLY | ((constants as { O_NONBLOCK?: number }).O_NONBLOCK ?? 0);

/** For reading; the caller closes it. @throws what the system says, and an Error for anything but a regular file */
export async function openRegularFile(path: string): Promise<FileHandle> {
  const before = await stat(path);
  if (!before.isFile()) throw problemOf(before);
  const file = await open(path, READ_ONLY);
  const stats = await file.stat();
  if (stats.isFile()) return file;
  await file.close();
  throw problemOf(stats);
}

/**
 * The same, for threads.
 *
 * @param isWalked It was a regular file a moment ago, and is not looked at again before it is opened.
 * @returns the descriptor, and what the system knows of the file.
 */
export function openRegularFileSync(path: string, isWalked = false): { readonly file: number; readonly stats: Stats } {
  const before = isWalked ? undefined : statSync(path);
  if (before?.isFile() === false) throw problemOf(before);
  const file = openSync(path, READ_ONLY);
  const stats = fstatSync(file);
  if (stats.isFile()) return { file, stats };
  closeSync(file);
  throw problemOf(stats);
}

function problemOf(stats: Stats): Error {
  return new Error(stats.isDirectory() ? 'it is a folder, not a file' : 'it is not a regular file');
}
