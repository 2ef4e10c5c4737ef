/** The table of nodes: `object_info`, validation and execution come from it. */
import type { NodeDefinition, NodeTable } from '../graph/index.js';
import { createClipVisionEncode } from './clip-vision-encode.js';
import { createClipVisionLoader } from './clip-vision-loader.js';
import { createCombineEmbeds } from './combine-embeds.js';
import { createEmptyImage } from './empty-image.js';
import { createFaceSimilarity } from './face-similarity.js';
import { createImageBatch } from './image-batch.js';
import { createImageBlend } from './image-blend.js';
import { createImageInvert } from './image-invert.js';
import { createImageScaleBy } from './image-scale-by.js';
import { createImageScale } from './image-scale.js';
import { createIPAdapterEncode } from './ipadapter-encode.js';
import { createIPAdapterLoader } from './ipadapter-loader.js';
import { createLoadEmbeds } from './load-embeds.js';
import { createLoadImageMask } from './load-image-mask.js';
import { createLoadImageOutput } from './load-image-output.js';
import { createFindModels } from './find-models.js';
import { createMissingModels } from './missing-models.js';
import { createModelInfo } from './model-info.js';
import { createModelStats } from './model-stats.js';
import { createMaskToImage } from './mask-to-image.js';
import { createGate } from './gate.js';
import { createLoadFeatures } from './load-features.js';
import { createLoadImage } from './load-image.js';
import { createPatchMap } from './patch-map.js';
import { createPreviewAny } from './preview-any.js';
import { createPreviewImage } from './preview-image.js';
import { createSaveEmbeds } from './save-embeds.js';
import { createPrimitives } from './primitives.js';
import { createRegexReplace } from './regex-replace.js';
import { createRepeatImageBatch } from './repeat-image-batch.js';
import { createSaveFeatures } from './save-features.js';
import { createSaveImageWebsocket } from './save-image-websocket.js';
import { createSaveImage } from './save-image.js';
import type { NodeServices } from './services.js';
import { createSimilarity } from './similarity.js';
import { createVisionBridgeEncode } from './vision-bridge-encode.js';

export { describeNodes, NODE_PROTOCOL } from './describe.js';
export type { IPAdapterServices, NodeServices } from './services.js';
export { decodeInputs, encodeOutputs } from './wire-values.js';

export function createNodes(services: NodeServices): NodeTable {
  const nodes: NodeDefinition[] = [
    createPreviewImage(services),
    createSaveImage(services),
    createSaveImageWebsocket(),
    createLoadImage(services),
    createLoadImageMask(services),
    createLoadImageOutput(services),
    createImageScale(),
    createImageScaleBy(),
    createImageInvert(),
    createImageBlend(),
    createImageBatch(),
    createRepeatImageBatch(),
    createEmptyImage(),
    createMaskToImage(),
    createPreviewAny(),
    ...createPrimitives(),
    createRegexReplace(),
    createClipVisionLoader(services),
    createClipVisionEncode(services),
    createVisionBridgeEncode(services),
    createSaveFeatures(services),
    createLoadFeatures(services),
    createSimilarity(),
    createGate(),
    createPatchMap(),
    createIPAdapterLoader(services),
    createIPAdapterEncode(services),
    createCombineEmbeds(),
    createSaveEmbeds(services),
    createLoadEmbeds(services),
    createFaceSimilarity(services),
    createModelStats(services),
    createModelInfo(services),
    createFindModels(services),
    createMissingModels(services),
  ];
  return new Map(nodes.map((node) => [node.classType, node]));
}
