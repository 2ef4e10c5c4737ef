/** The table of nodes: `object_info`, validation and execution come from it. */
import type { NodeDefinition, NodeTable } from '../graph/index.js';
import { createClipVisionEncode } from './clip-vision-encode.js';
import { createClipVisionLoader } from './clip-vision-loader.js';
import { createGate } from './gate.js';
import { createLoadFeatures } from './load-features.js';
import { createLoadImage } from './load-image.js';
import { createPatchMap } from './patch-map.js';
import { createPreviewAny } from './preview-any.js';
import { createPreviewImage } from './preview-image.js';
import { createSaveFeatures } from './save-features.js';
import type { NodeServices } from './services.js';
import { createSimilarity } from './similarity.js';
import { createVisionBridgeEncode } from './vision-bridge-encode.js';

export { describeNodes, NODE_PROTOCOL } from './describe.js';
export type { NodeServices } from './services.js';
export { decodeInputs, encodeOutputs } from './wire-values.js';

export function createNodes(services: NodeServices): NodeTable {
  const nodes: NodeDefinition[] = [
    createLoadImage(services),
    createClipVisionLoader(services),
    createClipVisionEncode(services),
    createPreviewAny(),
    createPreviewImage(services),
    createVisionBridgeEncode(services),
    createSaveFeatures(services),
    createLoadFeatures(services),
    createSimilarity(),
    createGate(),
    createPatchMap(),
  ];
  return new Map(nodes.map((node) => [node.classType, node]));
}
