/** The table of vision families, in the order in which ComfyUI tests for them. */
import { clip } from './clip.js';
import { dinov2 } from './dinov2.js';
import { dinov3 } from './dinov3.js';
import type { VisionFamily } from './family.js';
import { siglip } from './siglip.js';
import { siglip2 } from './siglip2.js';

export const FAMILIES: readonly VisionFamily[] = [clip, siglip, siglip2, dinov2, dinov3];

export type { OutputName, Preset, VisionFamily } from './family.js';
