/** The table of nodes: `object_info`, validation and execution come from it. */
import type { NodeDefinition, NodeTable } from '../graph/index.js';
import { createClipVisionEncode } from './clip-vision-encode.js';
import { createClipVisionLoader } from './clip-vision-loader.js';
import { createCombineEmbeds } from './combine-embeds.js';
import { createFaceSimilarity } from './face-similarity.js';
import { createIPAdapterEncode } from './ipadapter-encode.js';
import { createIPAdapterLoader } from './ipadapter-loader.js';
import { createLoadEmbeds } from './load-embeds.js';
import { createLoadImage } from './load-image.js';
import { createPreviewAny } from './preview-any.js';
import { createPreviewImage } from './preview-image.js';
import { createSaveEmbeds } from './save-embeds.js';
import { createSaveFeatures } from './save-features.js';
import type { NodeServices } from './services.js';

export type { IPAdapterServices, NodeServices } from './services.js';

export function createNodes(services: NodeServices): NodeTable {
  const nodes: NodeDefinition[] = [
    createLoadImage(services),
    createClipVisionLoader(services),
    createClipVisionEncode(services),
    createPreviewAny(),
    createPreviewImage(services),
    createSaveFeatures(services),
    createIPAdapterLoader(services),
    createIPAdapterEncode(services),
    createCombineEmbeds(),
    createSaveEmbeds(services),
    createLoadEmbeds(services),
    createFaceSimilarity(services),
  ];
  return new Map(nodes.map((node) => [node.classType, node]));
}
