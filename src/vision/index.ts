/** Door of vision/: encoders by content, and encoding. */
export { VisionEngine, type VisionInput } from './engine.js';
export { OUTPUT_FIELDS, featureTensors, type VisionOutput } from './output.js';
export type { NamedFeatures, NamedPictures } from './named-pictures.js';
export type { FeatureMemory } from './feature-cache.js';
export type { OutputName } from './families/index.js';
export { joinBatch } from './join.js';
export { joinEncoded, type EncodedPictures } from './tiles.js';
export type { Precision } from './weight-values.js';
export { resolveVisionModel, type VisionModel } from './model.js';
export { createEncodeOperations } from './operation.js';
export { createQuantizeOperation, QUANTIZE_OPERATION } from './quantization/quantize.js';
export { Quantizer } from './quantizer.js';
export { HASH_FILES_TASK, hashFiles, PREPARE_TASK, preparePictures } from './thread-tasks.js';
export { CLIPVisionEncoderCore, type EncodeImageOptions, type EncoderOptions, type ImageFeatures } from './encoder.js';
export type { VisionConfig } from './config.js';
export { presetConfig, writeRandomModel } from './random-model.js';
export { quantizeMatrix } from './quantization/scheme.js';
export { WeightsIdentity, type HashMemory } from './weights-identity.js';
