/** Files that a prompt names: in the input folder, or annotated with another one. */
import { createHash } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import { extname } from 'node:path';
import { BridgeError } from '../common/errors.js';
import { openRegularFile } from '../common/regular-file.js';
import { PythonError, pythonRepr, pythonTypeName, type NodeDefinition } from '../graph/index.js';
import { decodeImage, type DecodedImage } from '../image/index.js';
import { resolveInside, splitAnnotation } from '../paths/index.js';
import type { JsonValue } from '../protocol/json.js';
import type { NodeServices } from './services.js';

/** Endings that Python's mimetypes calls images, and the ones that ComfyUI adds. */
const IMAGE_ENDINGS = new Set(
  'avif bmp gif heic heif ico ief jpe jpeg jpg pbm pgm png pnm ppm ras rgb svg tif tiff webp xbm xpm xwd'
    .split(' ')
    .map((ending) => `.${ending}`),
);

/** Absolute path of `name`, `folder/name` or `name [output]`. @throws {BridgeError} `PATH_OUTSIDE_FOLDER` */
export function inputFilePath(services: NodeServices, name: string): string {
  const { name: plain, area = 'input' } = splitAnnotation(name);
  const path = resolveInside(services.directories[area], plain);
  if (path === undefined) throw new BridgeError('PATH_OUTSIDE_FOLDER', `"${name}" leads out of its folder.`);
  return path;
}

/** A file that a name of the prompt leads to, as pixels. */
export async function decodeInputImage(
  services: NodeServices,
  name: string,
  signal: AbortSignal,
): Promise<DecodedImage> {
  const path = inputFilePath(services, name);
  await refuseFolder(services, name, path);
  try {
    return await decodeImage(path, { label: name, signal });
  } catch (error) {
    // Clients of ComfyUI match on Pillow's name and words for a file that is no image.
    if (error instanceof BridgeError && error.code === 'IMAGE_INVALID')
      throw new PythonError('PIL.UnidentifiedImageError', `cannot identify image file ${pythonRepr(path)}`);
    throw error;
  }
}

/** In Python's words: an empty name leads to the folder itself, and a file may have gone since the prompt was checked. */
async function refuseFolder(services: NodeServices, name: string, path: string): Promise<void> {
  const { name: plain, area = 'input' } = splitAnnotation(name);
  const shown = pythonRepr(`${services.directories[area]}/${plain}`);
  let isFolder: boolean;
  try {
    isFolder = (await stat(path)).isDirectory();
  } catch {
    throw new PythonError('FileNotFoundError', `[Errno 2] No such file or directory: ${shown}`);
  }
  if (isFolder) throw new PythonError('IsADirectoryError', `[Errno 21] Is a directory: ${shown}`);
}

/** ComfyUI's change token of a file: another content under the same name runs again. */
export async function imageFileHash(services: NodeServices, name: string): Promise<string> {
  const hash = createHash('sha256');
  // The stream closes the file.
  const file = await openRegularFile(inputFilePath(services, name));
  for await (const chunk of file.createReadStream()) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

/** Refuses names that lead to no file, before anything runs. */
export function imageFileValidator(services: NodeServices): NonNullable<NodeDefinition['validator']> {
  return {
    names: ['image'],
    check: async (inputs) => {
      const name = inputs['image'] as JsonValue;
      if (typeof name !== 'string')
        throw new PythonError('AttributeError', `'${pythonTypeName(name)}' object has no attribute 'endswith'`);
      return (await exists(services, name)) || `Invalid image file: ${name}`;
    },
  };
}

/** Whether a name leads to something; a folder is refused only when it is read, as in ComfyUI. */
async function exists(services: NodeServices, name: string): Promise<boolean> {
  try {
    await stat(inputFilePath(services, name));
    return true;
  } catch {
    return false;
  }
}

/** Files at the top level of the input folder, sorted: what a LoadImageMask can be set to. */
export async function listInputFiles(services: NodeServices): Promise<string[]> {
  try {
    const entries = await readdir(services.directories.input, { withFileTypes: true });
    return entries
      .filter((entry) => !entry.isDirectory())
      .map(({ name }) => name)
      .sort();
  } catch {
    return []; // no input folder yet: no files
  }
}

/** Those that are pictures: what a LoadImage can be set to. */
export async function listInputImages(services: NodeServices): Promise<string[]> {
  return (await listInputFiles(services)).filter((name) => IMAGE_ENDINGS.has(extname(name).toLowerCase()));
}
