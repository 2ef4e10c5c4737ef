/** The table of projection kinds, in the order in which they are tested for. */
import { base } from './base.js';
import { faceidPlus } from './faceid-plus.js';
import { faceid } from './faceid.js';
import type { AdapterFamily } from './family.js';
import { full } from './full.js';
import { resampler } from './resampler.js';

export const FAMILIES: readonly AdapterFamily[] = [full, faceidPlus, resampler, faceid, base];

export type { AdapterFamily, ProjectionInput, ProjectionSizes, Projector } from './family.js';
export { buildVersion2 } from './faceid-plus.js';
