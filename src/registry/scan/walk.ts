/**
 * All model files below a folder. Synchronous: it runs in a thread of its own, so that a network folder that does not
 * answer keeps nobody else waiting (Node's own file functions share four threads in the whole process).
 */
import { readdirSync, statSync, type Dirent } from 'node:fs';
import { extname, join } from 'node:path';

/** Endings of model files: ComfyUI's, and those that it does not list. */
const MODEL_ENDINGS: ReadonlySet<string> = new Set(
  '.ckpt .pt .pt2 .bin .pth .safetensors .pkl .sft .gguf .onnx'.split(' '),
);
/** A tree with more folders is a mistake (a drive root, a mesh of links), and walking it would not end. */
const MAX_FOLDERS = 200_000;

/** Files in columns: what goes between threads without making an object per file. */
export interface WalkedFiles {
  /** Relative to the root, with `/`. */
  readonly names: readonly string[];
  /** Per file: device, inode, size, modification time in ms, hard links, blocks of 512 bytes. */
  readonly numbers: Float64Array;
}

export interface WalkEnd {
  readonly problems: readonly string[];
  /** The root is not there, or may not be listed. */
  readonly isMissing: boolean;
}

export const NUMBERS_PER_FILE = 6;
/** Files are told of while the walk goes on, so many at a time. */
const FILES_PER_PART = 1000;

interface WalkListeners {
  readonly onFiles: (files: WalkedFiles) => void;
  /** Called for every folder: a sign of life. */
  readonly onFolder?: () => void;
}

/**
 * Walks a root. Links are followed; a folder that leads back into itself is entered once.
 *
 * @param excluded Absolute folders that are roots of their own.
 */
export function walkModels(root: string, excluded: readonly string[], { onFiles, onFolder }: WalkListeners): WalkEnd {
  let names: string[] = [];
  let numbers: number[] = [];
  const tell = (): void => {
    if (names.length > 0) onFiles({ names, numbers: Float64Array.from(numbers) });
    names = [];
    numbers = [];
  };
  const problems: string[] = [];
  const skipped = new Set(excluded);
  let folders = 0;
  let isMissing = false;
  const enter = (path: string, prefix: string, ancestors: readonly string[]): void => {
    folders += 1;
    onFolder?.();
    if (folders > MAX_FOLDERS) {
      if (folders === MAX_FOLDERS + 1) problems.push(`${path}: more than ${MAX_FOLDERS} folders; the rest is left out`);
      return;
    }
    let entries: Dirent[];
    try {
      entries = readdirSync(path, { withFileTypes: true });
    } catch {
      if (prefix === '') isMissing = true;
      else problems.push(`${path} cannot be listed`);
      return;
    }
    for (const entry of entries) {
      const full = join(path, entry.name);
      const isFolder = entry.isDirectory();
      if (!isFolder && !entry.isSymbolicLink() && !MODEL_ENDINGS.has(extname(entry.name).toLowerCase())) continue;
      try {
        const stats = statSync(full);
        if (stats.isDirectory()) {
          if (entry.name === '.git' || skipped.has(full)) continue;
          const key = `${stats.dev}:${stats.ino}`;
          if (ancestors.includes(key)) problems.push(`${full} leads back to a folder above it; it is walked once`);
          else enter(full, `${prefix}${entry.name}/`, [...ancestors, key]);
        } else if (!MODEL_ENDINGS.has(extname(entry.name).toLowerCase())) {
          continue;
        } else if (!stats.isFile()) {
          problems.push(`${full} is a pipe, a socket or a device, not a file`);
        } else {
          names.push(prefix + entry.name);
          numbers.push(stats.dev, stats.ino, stats.size, stats.mtimeMs, stats.nlink, stats.blocks);
          if (names.length === FILES_PER_PART) tell();
        }
      } catch {
        problems.push(entry.isSymbolicLink() ? `${full} is a link that leads nowhere` : `${full} cannot be looked at`);
      }
    }
  };
  enter(root, '', []);
  tell();
  return { problems, isMissing };
}
