/** Door of image/: files and tensors to pixels and back. */
export { decodeImage, MAX_PIXELS, toImageTensor, type DecodedImage, type DecodeOptions } from './decode.js';
export { preprocess, preprocessToU8, roundHalfEven, type Crop, type PreprocessOptions } from './preprocess.js';
export { encodePng, type PngCompression } from './encode.js';
