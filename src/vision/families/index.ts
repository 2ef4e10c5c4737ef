/** The table of vision families, in the order in which ComfyUI tests for them. */
import { clip } from './clip.js';
import { dinov2 } from './dinov2.js';
import type { VisionFamily } from './family.js';
import { siglip } from './siglip.js';

export const FAMILIES: readonly VisionFamily[] = [clip, siglip, dinov2];

export type { OutputName, Preset, VisionFamily } from './family.js';
