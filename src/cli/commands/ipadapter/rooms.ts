/** What the ipadapter commands share: the user's folders, an inference process, and a pair opened by name or path. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { findEncoder, openFacePack, type AdapterPair, type ModelSource } from '../../../adapter/index.js';
import { createIPAdapterServices, dataDirectoryOf, openSoundFolders, visionOptionsOf } from '../../../bridge.js';
import type { Logger } from '../../../common/logger.js';
import { createVisionServices } from '../../../vision-services.js';
import type { VisionEngine } from '../../../vision/index.js';
import { configOf } from '../../options.js';

export type AdapterServices = ReturnType<typeof createIPAdapterServices>;

export interface AdapterRooms extends AsyncDisposable {
  readonly vision: VisionEngine;
  readonly ipadapter: AdapterServices;
}

/** Starts nothing yet: the inference process begins with the first encode. */
export async function openAdapterRooms(command: Command, logger: Logger): Promise<AdapterRooms> {
  const config = configOf(command);
  const { paths } = await openSoundFolders(config, logger);
  const services = createVisionServices({
    ...visionOptionsOf(config),
    dataDirectory: dataDirectoryOf(config),
    logger,
  });
  return {
    vision: services.engine,
    ipadapter: createIPAdapterServices(services, paths),
    async [Symbol.asyncDispose]() {
      await services[Symbol.asyncDispose]();
      await paths[Symbol.asyncDispose]();
    },
  };
}

export interface PairFlags {
  readonly adapter: string;
  readonly clipVision?: string;
  readonly facePack?: string;
}

/** Names and paths to an adapter, the encoder that fits it, and face networks where it wants faces. */
export async function openPair({ vision, ipadapter }: AdapterRooms, flags: PairFlags): Promise<AdapterPair> {
  const { adapters, faces, folders } = ipadapter;
  const adapter = await adapters.open(await locate(folders.adapters, flags.adapter));
  const encoder =
    adapter.encoder === undefined
      ? undefined
      : flags.clipVision === undefined
        ? (await findEncoder(adapter, folders.encoders, vision)).model
        : await vision.open(await locate(folders.encoders, flags.clipVision));
  if (adapter.face === undefined) return { adapter, encoder };
  const pack = flags.facePack !== undefined && existsSync(flags.facePack) ? resolve(flags.facePack) : flags.facePack;
  return { adapter, encoder, faces: await openFacePack(faces, folders.facePacks, pack) };
}

/** A path of a file that is there, or a name of the user's folders. */
export async function locate(source: ModelSource, nameOrPath: string): Promise<string> {
  return existsSync(nameOrPath) ? resolve(nameOrPath) : source.resolve(nameOrPath);
}
