/** Files that a prompt names: in the input folder, or annotated with another one. */
import { readdir, stat } from 'node:fs/promises';
import { extname } from 'node:path';
import { resolveInside, splitAnnotation } from '../paths/index.js';
import type { NodeServices } from './services.js';

/** Endings that Python's mimetypes calls images, and the ones that ComfyUI adds. */
const IMAGE_ENDINGS = new Set(
  'avif bmp gif heic heif ico ief jpe jpeg jpg pbm pgm png pnm ppm ras rgb svg tif tiff webp xbm xpm xwd'
    .split(' ')
    .map((ending) => `.${ending}`),
);

/** Absolute path of `name`, `folder/name` or `name [output]`; undefined when it would leave its folder. */
export function inputFilePath(services: NodeServices, name: string): string | undefined {
  const { name: plain, area = 'input' } = splitAnnotation(name);
  return resolveInside(services.directories[area], plain);
}

/** Whether a name leads to a regular file. */
export async function isInputFile(services: NodeServices, name: string): Promise<boolean> {
  const path = inputFilePath(services, name);
  if (path === undefined) return false;
  try {
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}

/** Pictures at the top level of the input folder, sorted: what a LoadImage can be set to. */
export async function listInputImages(services: NodeServices): Promise<string[]> {
  try {
    const entries = await readdir(services.directories.input, { withFileTypes: true });
    const files = entries.filter(
      (entry) => !entry.isDirectory() && IMAGE_ENDINGS.has(extname(entry.name).toLowerCase()),
    );
    return files.map(({ name }) => name).sort();
  } catch {
    return []; // no input folder yet: no pictures
  }
}
