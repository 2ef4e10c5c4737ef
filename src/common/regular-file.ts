/**
 * Opens regular files and nothing else. Opening a pipe waits for whoever writes into it, maybe for ever, and with it one
 * of the few threads that Node has for files; opening a device may do anything.
 */
import { closeSync, constants, fstatSync, openSync, statSync, type Stats } from 'node:fs';
import { open, stat, type FileHandle } from 'node:fs/promises';

const PROBLEM = 'it is not a regular file';
/** Where a pipe took the place of the file after it was looked at, opening does not wait. Windows has no such flag. */
const READ_ONLY = constants.O_RDONLY | ((constants as { O_NONBLOCK?: number }).O_NONBLOCK ?? 0);

/** For reading; the caller closes it. @throws what the system says, and an Error for anything but a regular file */
export async function openRegularFile(path: string): Promise<FileHandle> {
  if (!(await stat(path)).isFile()) throw new Error(PROBLEM);
  const file = await open(path, READ_ONLY);
  if ((await file.stat()).isFile()) return file;
  await file.close();
  throw new Error(PROBLEM);
}

/**
 * The same, for threads.
 *
 * @param isWalked It was a regular file a moment ago, and is not looked at again before it is opened.
 * @returns the descriptor, and what the system knows of the file.
 */
export function openRegularFileSync(path: string, isWalked = false): { readonly file: number; readonly stats: Stats } {
  if (!isWalked && !statSync(path).isFile()) throw new Error(PROBLEM);
  const file = openSync(path, READ_ONLY);
  const stats = fstatSync(file);
  if (stats.isFile()) return { file, stats };
  closeSync(file);
  throw new Error(PROBLEM);
}
