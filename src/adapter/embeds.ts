/**
 * Embeds: what goes into a projection, with what stands against it, and where it came from.
 *
 * These are IPAdapter_plus's embeds, that is features of the encoder and not tokens; so they can be weighed, combined,
 * stored, and used with every adapter that takes the same features.
 */
import { InvalidRequestError } from '../common/errors.js';
import { combineRows, fitRows, weighRows, type CombineMode } from './combine.js';
import type { AdapterFeatures } from './feature-rows.js';
import { mapFeatures, rowCount, stackFeatures } from './features.js';

/** Where embeds came from; plain data, written into files of embeds. */
export interface EmbedsProvenance {
  /** What the adapter is that they were made for, and which file it was. */
  readonly adapter?: { readonly name: string; readonly variant: string; readonly identity: string };
  readonly encoder?: { readonly name: string; readonly family: string; readonly identity: string };
  /** sha256 of every picture's pixels, in order. */
  readonly images: readonly string[];
  /** How they were made: precision, weights, combine mode, tiles, negative. */
  readonly settings: Readonly<Record<string, string | number | boolean | readonly number[]>>;
}

export interface IPAdapterEmbeds {
  readonly kind: 'ipadapter_embeds';
  readonly cond: AdapterFeatures;
  /** What stands against it; where it is missing, it is made when it is needed, as IPAdapter_plus does. */
  readonly uncond?: AdapterFeatures;
  readonly provenance: EmbedsProvenance;
}

/** The conditional part times weights, one per picture; a list that is too short repeats its last. */
export function weighEmbeds(embeds: IPAdapterEmbeds, weights: readonly number[]): IPAdapterEmbeds {
  return { ...embeds, cond: mapFeatures(embeds.cond, (tensor) => weighRows(tensor, weights)) };
}

/**
 * Several embeds as one. All their pictures are combined, not the embeds one by one.
 *
 * @throws {InvalidRequestError} for none, or for embeds of different encoders.
 */
export function combineEmbeds(list: readonly IPAdapterEmbeds[], mode: CombineMode): IPAdapterEmbeds {
  const [first] = list;
  if (first === undefined) throw new InvalidRequestError('There are no embeds to combine.');
  const all = stackFeatures(list.map(({ cond }) => cond));
  const cond = mapFeatures(all, (tensor) => combineRows(tensor, mode));
  const { images, settings } = {
    images: list.flatMap(({ provenance }) => provenance.images),
    settings: { ...first.provenance.settings, combine: mode },
  };
  const { adapter, encoder } = first.provenance;
  const provenance = {
    ...(adapter === undefined ? {} : { adapter }),
    ...(encoder === undefined ? {} : { encoder }),
    images,
    settings,
  };
  const against = list.flatMap(({ cond: own, uncond }) =>
    uncond === undefined ? [] : [mapFeatures(uncond, (tensor) => fitRows(tensor, rowCount(own)))],
  );
  if (against.length < list.length) return { kind: 'ipadapter_embeds', cond, provenance };
  const uncond = mapFeatures(stackFeatures(against), (tensor) => fitRows(tensor, rowCount(cond)));
  return { kind: 'ipadapter_embeds', cond, uncond, provenance };
}
