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
 * @param weights One for each of the embeds, of all their pictures; without it all count as they are.
 * @throws {InvalidRequestError} for none, for embeds of different encoders, and for another number of weights.
 */
export function combineEmbeds(
  list: readonly IPAdapterEmbeds[],
  mode: CombineMode,
  weights?: readonly number[],
): IPAdapterEmbeds {
  if (list.length === 0) throw new InvalidRequestError('There are no embeds to combine.');
  if (weights !== undefined && weights.length !== list.length) {
    throw new InvalidRequestError(
      `Each of the embeds has one weight: there are ${list.length} embeds and ${weights.length} weights.`,
    );
  }
  const weighed = weights === undefined ? list : list.map((embeds, i) => weighEmbeds(embeds, [weights[i] ?? 1]));
  const all = stackFeatures(weighed.map(({ cond }) => cond));
  const cond = mapFeatures(all, (tensor) => combineRows(tensor, mode));
  const provenance = joinProvenance(
    list.map((embeds) => embeds.provenance),
    { combine: mode, ...(weights === undefined ? {} : { embeds_weights: weights }) },
  );
  const against = list.flatMap(({ cond: own, uncond }) =>
    uncond === undefined ? [] : [mapFeatures(uncond, (tensor) => fitRows(tensor, rowCount(own)))],
  );
  if (against.length < list.length) return { kind: 'ipadapter_embeds', cond, provenance };
  const uncond = mapFeatures(stackFeatures(against), (tensor) => fitRows(tensor, rowCount(cond)));
  return { kind: 'ipadapter_embeds', cond, uncond, provenance };
}

type Settings = EmbedsProvenance['settings'];

/** Pictures in their order; what all agree in as it is, lists one after the other, and the rest as each has it. */
function joinProvenance(list: readonly EmbedsProvenance[], own: Settings): EmbedsProvenance {
  const names = new Set(list.flatMap(({ settings }) => Object.keys(settings)));
  const settings = [...names].map((name): [string, Settings[string]] => {
    const values = list.map((part) => part.settings[name] ?? 'none');
    const lists = values.filter((value) => Array.isArray(value)) as (readonly number[])[];
    if (lists.length === values.length) return [name, lists.flat()];
    const texts = values.map(String);
    const [first = 'none'] = values;
    return [name, new Set(texts).size === 1 ? first : texts.join(' + ')];
  });
  const joined = Object.fromEntries(settings);
  const { combine: before } = joined;
  const adapter = common(list.map((part) => part.adapter));
  const encoder = common(list.map((part) => part.encoder));
  return {
    ...(adapter === undefined ? {} : { adapter }),
    ...(encoder === undefined ? {} : { encoder }),
    images: list.flatMap(({ images }) => images),
    settings: {
      ...joined,
      // How each was made of its own pictures, where they were not left side by side.
      ...(before === undefined || before === 'concat' ? {} : { combined_before: before }),
      ...own,
    },
  };
}

/** What all of them are; undefined where they differ. */
function common<T>(values: readonly (T | undefined)[]): T | undefined {
  const [first] = values;
  return values.every((value) => JSON.stringify(value) === JSON.stringify(first)) ? first : undefined;
}
