/**
 * From a model name to a path, as ComfyUI's `get_full_path`, and other names that come from outside.
 *
 * A model name is made absolute below `/`, normalized as text and made relative again, so that no number of `..` leaves
 * its folder; the first folder that has it as a regular file wins.
 */
import { stat, lstat } from 'node:fs/promises';
import { isAbsolute, relative, resolve, sep } from 'node:path';
import type { FolderType } from './folder-map.js';
import { makeAbsolute, splitDrive, type PathPlatform } from './path-rules.js';

/**
 * A name that stays in its folder, or undefined for one that Python cannot make relative (another drive or share).
 */
export function containName(platform: PathPlatform, name: string): string | undefined {
  const { rules } = platform;
  const root = makeAbsolute(platform, rules.separator);
  const full = makeAbsolute(platform, rules.join(rules.separator, name));
  if (platform.kind === 'posix') return full.replace(/^\/+/, '');
  const [rootDrive] = splitDrive(root);
  const [drive, rest] = splitDrive(full);
  return drive.toLowerCase() === rootDrive.toLowerCase() ? rest.replace(/^[\\/]+/, '') : undefined;
}

/** The paths that would be tried, in order. */
export function candidatePaths(platform: PathPlatform, type: FolderType, name: string): string[] {
  const contained = containName(platform, name);
  if (contained === undefined || contained === '' || name.includes('\0')) return [];
  return type.folders.map(({ path }) => platform.rules.join(path, contained));
}

/** The first candidate that is a regular file, links followed; broken links are passed over. */
export async function findModel(
  platform: PathPlatform,
  type: FolderType,
  name: string,
  warn: (message: string) => void,
): Promise<string | undefined> {
  for (const path of candidatePaths(platform, type, name)) {
    try {
      if ((await stat(path)).isFile()) return path;
    } catch {
      if (await isLink(path)) warn(`${path} is a link that leads nowhere; skipped`);
    }
  }
  return undefined;
}

async function isLink(path: string): Promise<boolean> {
  try {
    return (await lstat(path)).isSymbolicLink();
  } catch {
    return false;
  }
}

/** The absolute path of a name below a folder; undefined when it would leave it, or is no name at all. */
export function resolveInside(folder: string, name: string): string | undefined {
  if (name.includes('\0')) return undefined;
  const root = resolve(folder);
  const path = resolve(root, name);
  const inside = relative(root, path);
  return inside === '..' || inside.startsWith(`..${sep}`) || isAbsolute(inside) ? undefined : path;
}

export type FileArea = 'input' | 'output' | 'temp';

export function isFileArea(text: string): text is FileArea {
  return text === 'input' || text === 'output' || text === 'temp';
}

/** `x.png [output]` names the area it is in; the annotation and one character before it are cut off. */
export function splitAnnotation(name: string): { readonly name: string; readonly area?: FileArea } {
  const match = /\[(input|output|temp)\]$/.exec(name);
  if (match === null) return { name };
  return { name: name.slice(0, Math.max(0, match.index - 1)), area: match[1] as FileArea };
}
