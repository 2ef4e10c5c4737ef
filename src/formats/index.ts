/** Door of formats/: containers of tensors, read without loading them. */
export { stampKey, type ModelHeader, type TensorInfo } from './model-header.js';
export { readSafetensorsHeader, readTensor } from './safetensors/file.js';
export { parseSafetensors, serializeSafetensors } from './safetensors/memory.js';
export { readSafetensorsMetadata } from './safetensors/metadata.js';
