/** Door of vision/: encoders by content, and encoding. */
export { VisionEngine, OUTPUT_FIELDS, type EncodeOptions, type VisionInput, type VisionOutput } from './engine.js';
export type { OutputName } from './families/index.js';
export type { Precision } from './graph.js';
export { embeddingDim, resolveVisionModel, type VisionModel } from './model.js';
export { createEncodeOperation, ENCODE_OPERATION } from './operation.js';
