/** Door of formats/: containers of tensors, read without loading them. */
export { stampKey, type ModelHeader, type TensorInfo } from './model-header.js';
export { readModelHeader } from './open.js';
export { readSafetensorsHeader, readTensor } from './safetensors/file.js';
export { parseSafetensors, serializeSafetensors } from './safetensors/memory.js';
export { SafetensorsWriter, type TensorPlan } from './safetensors/writer.js';
export { readStampKey } from './shards.js';
export { inspectPickle } from './torch/file.js';
