/**
 * Which folders the registry walks: all of ComfyUI's model folders, and the folders of `models/` that are no ComfyUI type
 * (`ipadapter`, `insightface`, …), which packages of nodes use.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { FolderPaths } from '../paths/index.js';
import type { ModelRoot } from '../registry/index.js';

/** Types that hold no model files. */
const NOT_MODELS: ReadonlySet<string> = new Set(['configs', 'custom_nodes']);

export function modelRoots(paths: FolderPaths): ModelRoot[] {
  const listed = paths
    .names()
    .filter((name) => !NOT_MODELS.has(name))
    .flatMap((folder) =>
      paths
        .folders(folder)
        .map(({ path }, rootIndex): ModelRoot => ({ path, folder, rootIndex, extensions: paths.extensions(folder) })),
    );
  const known = new Set(listed.map(({ path }) => path));
  const models = paths.baseDirectory === '' ? undefined : join(paths.baseDirectory, 'models');
  const extra = models === undefined ? [] : foldersIn(models).filter((name) => !known.has(join(models, name)));
  const others =
    models === undefined
      ? []
      : extra.map((folder): ModelRoot => ({ path: join(models, folder), folder, rootIndex: 0, excluded: [...known] }));
  return [...listed, ...others];
}

function foldersIn(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => (entry.isDirectory() || entry.isSymbolicLink()) && entry.name !== 'configs')
      .map(({ name }) => name)
      .sort();
  } catch {
    return []; // no models folder: nothing that ComfyUI does not know either
  }
}
