/** Door of onnx/: graphs and layers, no models. */
export { GraphBuilder, type GraphOptions, type Value } from './graph-builder.js';
export {
  activation,
  attention,
  classTokenOf,
  expandToBatch,
  layerNorm,
  linear,
  type Activation,
  type LinearWeights,
} from './layers.js';
export { LOW_STEPS } from './int8.js';
export { isOnnxDType } from './model-writer.js';
