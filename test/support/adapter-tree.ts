/** A ComfyUI tree with the golden adapters and encoders under names that say nothing. */
import { copyFile, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { adapterFolders, type AdapterFolders } from '../../src/library/index.js';
import { FolderPaths } from '../../src/paths/index.js';
import { writeFacePack } from './face-networks.js';

const golden = join(import.meta.dirname, '..', 'golden', 'vision');

export interface AdapterTree extends AsyncDisposable {
  readonly root: string;
  readonly paths: FolderPaths;
  readonly folders: AdapterFolders;
}

interface TreeOptions {
  /** File in `clip_vision` to golden encoder. */
  readonly encoders?: Readonly<Record<string, string>>;
  /** File in `ipadapter` to golden adapter. */
  readonly adapters?: Readonly<Record<string, string>>;
  /** Width of the recogniser's embeddings; a tree without has no face networks. */
  readonly faceWidth?: number;
}

export async function createAdapterTree({
  encoders = {},
  adapters = {},
  faceWidth,
}: TreeOptions): Promise<AdapterTree> {
  const root = await mkdtemp(join(tmpdir(), 'vision-bridge-adapters-'));
  const copy = async (from: string, to: string): Promise<void> => {
    await mkdir(dirname(to), { recursive: true });
    await copyFile(from, to);
  };
  for (const [name, file] of Object.entries(encoders))
    await copy(join(golden, 'models', file), join(root, 'models', 'clip_vision', name));
  for (const [name, file] of Object.entries(adapters))
    await copy(join(golden, 'ipadapter', 'models', file), join(root, 'models', 'ipadapter', name));
  if (faceWidth !== undefined)
    await writeFacePack(join(root, 'models', 'insightface', 'models', 'buffalo_l'), faceWidth);
  const paths = new FolderPaths({ installDirectory: root });
  return {
    root,
    paths,
    folders: adapterFolders(paths),
    [Symbol.asyncDispose]: () => rm(root, { recursive: true, force: true }),
  };
}
