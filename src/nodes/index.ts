/** The table of nodes: `object_info`, validation and execution come from it. */
import type { NodeDefinition, NodeTable } from '../graph/index.js';
import { createClipVisionEncode } from './clip-vision-encode.js';
import { createClipVisionLoader } from './clip-vision-loader.js';
import { createEmptyImage } from './empty-image.js';
import { createImageBatch } from './image-batch.js';
import { createImageBlend } from './image-blend.js';
import { createImageInvert } from './image-invert.js';
import { createImageScaleBy } from './image-scale-by.js';
import { createImageScale } from './image-scale.js';
import { createLoadImageMask } from './load-image-mask.js';
import { createLoadImageOutput } from './load-image-output.js';
import { createFindModels } from './find-models.js';
import { createLoadImage } from './load-image.js';
import { createMissingModels } from './missing-models.js';
import { createModelInfo } from './model-info.js';
import { createModelStats } from './model-stats.js';
import { createMaskToImage } from './mask-to-image.js';
import { createPreviewAny } from './preview-any.js';
import { createPreviewImage } from './preview-image.js';
import { createPrimitives } from './primitives.js';
import { createRegexReplace } from './regex-replace.js';
import { createRepeatImageBatch } from './repeat-image-batch.js';
import { createSaveFeatures } from './save-features.js';
import { createSaveImageWebsocket } from './save-image-websocket.js';
import { createSaveImage } from './save-image.js';
import type { NodeServices } from './services.js';

export type { NodeServices } from './services.js';

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
    createSaveFeatures(services),
    createModelStats(services),
    createModelInfo(services),
    createFindModels(services),
    createMissingModels(services),
  ];
  return new Map(nodes.map((node) => [node.classType, node]));
}
