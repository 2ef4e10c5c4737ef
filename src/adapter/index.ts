/** Door of adapter/: IP-Adapters by content, and what they make of references. */
export { COMBINE_MODES, type CombineMode } from './combine.js';
export {
  EMBEDS_TENSORS,
  embedsFromTensors,
  embedsTensors,
  parseEmbeds,
  readEmbeds,
  serializeEmbeds,
} from './embeds-file.js';
export { combineEmbeds, weighEmbeds, type IPAdapterEmbeds } from './embeds.js';
export { AdapterEngine, type IPAdapterTokens } from './engine.js';
export type { AdapterFeatures } from './feature-rows.js';
export { maskTokens } from './masks.js';
export { resolveAdapter, type IPAdapterModel, type IPAdapterVariant } from './model.js';
export { NOISE_KINDS } from './noise.js';
export { createProjectOperation, PROJECT_OPERATION } from './operation.js';
export { encoderProblem, findEncoder, type ModelCandidate, type ModelSource } from './pairing.js';
export { createPicturesOperation, PICTURES_OPERATION } from './pictures-operation.js';
export { pixelsOf, type Reference } from './pictures.js';
export {
  ReferenceEncoder,
  type AdapterPair,
  type Negative,
  type ProjectedEmbeds,
  type ReferenceOptions,
} from './references.js';
export { IPAdapterServiceCore, openFacePack, ReferenceImage, type IPAdapterConfig } from './service.js';
export { attentionPlaces, transformerWeights, WEIGHT_TYPES, type WeightType } from './weight-types.js';
export { readLayerWeights } from './layer-weights.js';
export { adapterSummary, tokenTensors } from './summary.js';
