/**
 * Facts about the files of one model folder type, root by root, and the pictures that lie beside them.
 *
 * Names come from the disk, hidden ones left out; each folder is listed once, so links cannot go in circles.
 *
 * Source: comfyui-protocol, "/experiment/models".
 */
import { readdir, realpath, stat } from 'node:fs/promises';
import { basename, dirname, extname, join, relative, sep } from 'node:path';
import { BridgeError } from '../common/errors.js';
import { readSafetensorsMetadata } from '../formats/index.js';
import { encodePreview } from '../image/index.js';

export interface ModelFileFacts {
  /** Relative to its root. */
  readonly name: string;
  readonly pathIndex: number;
  readonly sizeBytes: number;
  readonly modifiedMs: number;
  readonly createdMs: number;
}

const MODEL_ENDINGS = new Set(['.ckpt', '.pt', '.pt2', '.bin', '.pth', '.safetensors', '.pkl', '.sft']);
const PICTURE_ENDINGS = ['.png', '.jpg', '.jpeg', '.webp', '.gif', '.bmp', '.avif', '.tif', '.tiff'];
const MAX_HEADER_BYTES = 8 * 1024 * 1024; // ComfyUI's limit for covers
const MAX_COVER_BYTES = 8 * 1024 * 1024;
const PREVIEW_QUALITY = 80; // Pillow's default for WebP

/** All model files below one root. */
export async function listModelFacts(root: string, pathIndex: number): Promise<ModelFileFacts[]> {
  const facts: ModelFileFacts[] = [];
  const seen = new Set<string>();
  const walk = async (folder: string): Promise<void> => {
    const real = await realpath(folder).catch(() => undefined);
    if (real === undefined || seen.has(real)) return;
    seen.add(real);
    const names = (await readdir(folder).catch(() => [])).filter((name) => !name.startsWith('.')).sort();
    const found = await Promise.all(
      names.map(async (name) => ({ name, stats: await stat(join(folder, name)).catch(() => undefined) })),
    );
    for (const { name, stats } of found) {
      if (stats?.isFile() !== true || !MODEL_ENDINGS.has(extname(name).toLowerCase())) continue;
      facts.push({
        name: relative(root, join(folder, name)),
        pathIndex,
        sizeBytes: stats.size,
        modifiedMs: stats.mtimeMs,
        createdMs: stats.ctimeMs,
      });
    }
    for (const { name, stats } of found) if (stats?.isDirectory() === true) await walk(join(folder, name));
  };
  await walk(root);
  return facts;
}

/** The picture of a model as WebP: a file of its name beside it, or the cover in its header. */
export async function modelPicture(path: string): Promise<Buffer | undefined> {
  const stem = basename(path, extname(path));
  const names = new Set(await readdir(dirname(path)).catch(() => []));
  const beside = [stem, `${stem}.preview`].flatMap((name) =>
    PICTURE_ENDINGS.map((ending) => name + ending).filter((file) => names.has(file)),
  );
  const sources: (string | Uint8Array)[] = beside.map((name) => join(dirname(path), name));
  if (names.has(`${stem}.safetensors`)) {
    const cover = await readCover(join(dirname(path), `${stem}.safetensors`));
    if (cover !== undefined) sources.push(cover);
  }
  for (const source of sources) {
    try {
      return await encodePreview(source, { format: 'webp', quality: PREVIEW_QUALITY, dropAlpha: false });
    } catch (error) {
      // A picture that cannot be read is no picture; the next one may do.
      if (!(error instanceof BridgeError)) throw error;
    }
  }
  return undefined;
}

async function readCover(path: string): Promise<Buffer | undefined> {
  try {
    const text = (await readSafetensorsMetadata(path, MAX_HEADER_BYTES))?.get('ssmd_cover_images');
    const covers: unknown = typeof text === 'string' ? JSON.parse(text) : undefined;
    const first: unknown = Array.isArray(covers) ? covers[0] : undefined;
    return typeof first === 'string' && first.length <= MAX_COVER_BYTES ? Buffer.from(first, 'base64') : undefined;
  } catch {
    return undefined; // a header that cannot be read has no cover
  }
}

/** Model names as ComfyUI on POSIX writes them. */
export function slashedName(name: string): string {
  return sep === '/' ? name : name.replaceAll(sep, '/');
}
