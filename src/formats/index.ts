/** Door of formats/: containers of tensors, read without loading them. */
export { stampKey, stampOf, type ModelHeader, type TensorInfo } from './model-header.js';
export { readFileHeader, readModelHeader } from './open.js';
export { readSafetensorsHeader, readTensor } from './safetensors/file.js';
export { parseSafetensors, safetensorsParts, serializeSafetensors } from './safetensors/memory.js';
export { ByteSource } from './byte-source.js';
export { readGgufHeader, type GgufHeader } from './gguf/header.js';
export { readOnnxMetadata, type OnnxMetadata } from './onnx/metadata.js';
export { headerLength } from './safetensors/header.js';
export { HeaderScanner } from './safetensors/scan.js';
export { TensorTable, type DtypeShare, type TensorEntry } from './tensor-table.js';
export { SafetensorsWriter, type TensorPlan } from './safetensors/writer.js';
export { readStampKey, stampKeyOrNone } from './shards.js';
export { inspectPickle, type PickleInspection } from './torch/file.js';
export { readSafetensorsMetadata } from './safetensors/metadata.js';
export { isSafetensors } from './content.js';
