/** Door of faces/: faces in pictures, from the user's own ONNX files. */
export { FaceEngine, faceSimilarity, normalizeEmbedding, type FaceModel } from './engine.js';
export { createFacesOperation, FACES_OPERATION, type FaceChoice, type FoundFace } from './operation.js';
