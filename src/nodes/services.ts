/** What nodes need of the other rooms; bridge.ts hands it in. */
import type { AdapterEngine, ReferenceEncoder } from '../adapter/index.js';
import type { FaceEngine } from '../faces/index.js';
import type { AdapterFolders } from '../library/index.js';
import type { FileArea, FolderPaths } from '../paths/index.js';
import type { ModelRegistry } from '../registry/index.js';
import type { VisionEngine } from '../vision/index.js';

export interface IPAdapterServices {
  readonly adapters: AdapterEngine;
  readonly faces: FaceEngine;
  readonly references: ReferenceEncoder;
  readonly folders: AdapterFolders;
}

export interface NodeServices {
  readonly paths: FolderPaths;
  /** Absolute folders that uploads, results and previews are in. */
  readonly directories: Readonly<Record<FileArea, string>>;
  readonly vision: VisionEngine;
  readonly ipadapter: IPAdapterServices;
  readonly registry: ModelRegistry;
  /** Leave the prompt out of saved images. */
  readonly disableMetadata: boolean;
}
