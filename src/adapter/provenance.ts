/** Where embeds came from: which files, which pictures, which settings. */
import { basename } from 'node:path';
import { sha256Of } from '../common/sha256.js';
import { tensorBytes, type F32Tensor, type U8Tensor } from '../tensor/tensor.js';
import type { EmbedsProvenance } from './embeds.js';
import { fileIdentity } from './pictures.js';
import type { AdapterPair, ReferenceOptions } from './references.js';

/** A reference as far as its origin goes. */
interface PictureSource {
  readonly pixels: F32Tensor | U8Tensor;
  readonly isMasked: boolean;
}

/** What is written into a file of embeds. */
export async function provenanceOf(
  { adapter, encoder }: AdapterPair,
  pictures: readonly PictureSource[],
  weights: readonly number[],
  { precision = 'comfy', combine = 'concat', negative, tiles = 1, ratio = 1 }: ReferenceOptions,
): Promise<EmbedsProvenance> {
  const images: string[] = [];
  for (const { pixels } of pictures) images.push(await hashPicture(pixels));
  const { path, variant } = adapter;
  const adapterEntry = { name: basename(path), variant, identity: await fileIdentity(path) };
  const encoderEntry =
    encoder === undefined
      ? {}
      : {
          encoder: {
            name: basename(encoder.path),
            family: encoder.family,
            identity: await fileIdentity(encoder.path),
          },
        };
  const settings = {
    precision,
    combine,
    negative: negative?.kind ?? 'default',
    weights,
    masked: pictures.some(({ isMasked }) => isMasked),
    ...(tiles > 1 ? { tiles, ratio } : {}),
  };
  return { adapter: adapterEntry, ...encoderEntry, images, settings };
}

/** sha256 of dtype, shape and values. */
async function hashPicture(picture: F32Tensor | U8Tensor): Promise<string> {
  return sha256Of(Buffer.from(`${picture.dtype} ${picture.shape.join()} `), tensorBytes(picture));
}
