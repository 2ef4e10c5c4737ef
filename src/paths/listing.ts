/**
 * The files of a folder type, listed as ComfyUI lists them.
 *
 * Links are followed; `.git` folders are left out; a folder that leads back into itself is entered once, where ComfyUI
 * goes round until the system stops it. Names are relative to their root, merged as text, in code-point order.
 *
 * Source: ComfyUI 0.3.64, folder_paths.py, `recursive_search` and `get_filename_list_`; checked by test/golden/paths.
 */
import { statSync, type Dirent, type Stats } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join, sep } from 'node:path';
import type { FolderType } from './folder-map.js';

export interface Listing {
  /** Relative names with the system's separator, in code-point order. */
  readonly names: readonly string[];
  /** Modification time of every folder that was seen; the listing holds while they do not change. */
  readonly folderTimes: ReadonlyMap<string, number>;
  readonly warnings: readonly string[];
}

/** A tree with more folders is a mistake (a drive root, a mesh of links), and listing it would not end. */
const MAX_FOLDERS = 200_000;

/** Lists all roots of a type. A root that is missing, or is a file, is empty. */
export async function listFiles(type: FolderType): Promise<Listing> {
  const walk = new Walk();
  const names = new Set<string>();
  for (const { path } of type.folders) {
    for (const name of await walk.root(path)) {
      if (hasExtension(name, type.extensions)) names.add(name);
    }
  }
  return { names: sortByCodePoint([...names]), folderTimes: walk.folderTimes, warnings: walk.warnings };
}

/**
 * True while no folder of a listing changed and no configured root appeared.
 *
 * Synchronous: 400 looks take half a millisecond, and six times that through the thread pool. A server watches its
 * folders instead, and never comes here.
 */
export function isCurrent(listing: Listing, type: FolderType): boolean {
  for (const [path, time] of listing.folderTimes) {
    if (modificationTime(path) !== time) return false;
  }
  return type.folders.every(({ path }) => listing.folderTimes.has(path) || !isFolder(path));
}

const QUIETLY = { throwIfNoEntry: false } as const;

function modificationTime(path: string): number | undefined {
  try {
    return statSync(path, QUIETLY)?.mtimeMs;
  } catch {
    return undefined;
  }
}

function isFolder(path: string): boolean {
  try {
    return statSync(path, QUIETLY)?.isDirectory() === true;
  } catch {
    return false; // a component of the path is no folder, or may not be read
  }
}

/** Text from the last dot of the last component, leading dots not counting, in lower case. */
export function extensionOf(name: string): string {
  const base = name.slice(Math.max(name.lastIndexOf('/'), sep === '\\' ? name.lastIndexOf('\\') : -1) + 1);
  const firstLetter = base.search(/[^.]/);
  const dot = base.lastIndexOf('.');
  return firstLetter === -1 || dot < firstLetter ? '' : base.slice(dot).toLowerCase();
}

function hasExtension(name: string, extensions: ReadonlySet<string>): boolean {
  return extensions.size === 0 || extensions.has(extensionOf(name));
}

/** Python compares text by code point; JavaScript by UTF-16 unit, which differs where surrogates are involved. */
export function sortByCodePoint(names: string[]): string[] {
  names.sort();
  return names.some((name) => /[\uD800-\uDFFF]/.test(name)) ? names.sort(compareCodePoints) : names;
}

function compareCodePoints(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i += 1) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x === y) continue;
    // Surrogates stand for characters above all others.
    const isHighX = x >= 0xd800 && x <= 0xdfff;
    const isHighY = y >= 0xd800 && y <= 0xdfff;
    return isHighX === isHighY ? x - y : isHighX ? 1 : -1;
  }
  return a.length - b.length;
}

async function statOf(path: string): Promise<Stats | undefined> {
  try {
    return await stat(path);
  } catch {
    return undefined;
  }
}

/** One folder on the way down, to notice that it is its own ancestor. */
interface Ancestor {
  readonly key: string;
  readonly parent: Ancestor | undefined;
}

class Walk {
  readonly folderTimes = new Map<string, number>();
  readonly warnings: string[] = [];
  #folders = 0;

  async root(path: string): Promise<string[]> {
    const stats = await statOf(path);
    if (stats?.isDirectory() !== true) return [];
    const names: string[] = [];
    await this.#folder(path, '', stats, undefined, names);
    return names;
  }

  async #folder(
    path: string,
    prefix: string,
    stats: Stats,
    parent: Ancestor | undefined,
    names: string[],
  ): Promise<void> {
    const key = `${stats.dev}:${stats.ino}`;
    for (let ancestor = parent; ancestor !== undefined; ancestor = ancestor.parent) {
      if (ancestor.key !== key) continue;
      this.warnings.push(`${path} leads back to a folder above it; it is listed once`);
      return;
    }
    this.#folders += 1;
    if (this.#folders > MAX_FOLDERS) {
      if (this.#folders === MAX_FOLDERS + 1)
        this.warnings.push(`${path}: more than ${MAX_FOLDERS} folders; the rest is not listed`);
      return;
    }
    this.folderTimes.set(path, stats.mtimeMs);
    let entries: Dirent[];
    try {
      entries = await readdir(path, { withFileTypes: true });
    } catch {
      return; // unreadable folders are skipped, as Python's walk skips them
    }
    const here = { key, parent };
    const folders: Promise<void>[] = [];
    for (const entry of entries) {
      const isLink = entry.isSymbolicLink();
      if (entry.isDirectory() || isLink) folders.push(this.#entry(path, prefix, entry.name, isLink, here, names));
      else names.push(prefix + entry.name);
    }
    await Promise.all(folders);
  }

  /** A folder, or a link that may lead to one. */
  async #entry(
    path: string,
    prefix: string,
    name: string,
    isLink: boolean,
    parent: Ancestor,
    names: string[],
  ): Promise<void> {
    const full = join(path, name);
    const stats = await statOf(full);
    if (stats?.isDirectory() === true) {
      if (name !== '.git') await this.#folder(full, prefix + name + sep, stats, parent, names);
    } else if (isLink) {
      names.push(prefix + name); // a broken link is listed, though it cannot be opened
    } else {
      this.warnings.push(`${full} vanished while it was listed`);
    }
  }
}
