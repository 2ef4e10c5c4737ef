/** Door of formats/: containers of tensors, read without loading them. */
export { stampKey, type FileStamp, type ModelHeader, type TensorInfo } from './model-header.js';
export { knownDType, readSafetensorsHeader, readTensor } from './safetensors/file.js';
export { parseSafetensors, serializeSafetensors, type SafetensorsContent } from './safetensors/memory.js';
