/** Door of image/: files and tensors to pixels and back. */
export { decodeImage, toImageTensor, type DecodedImage } from './decode.js';
export { preprocess, preprocessToU8, roundHalfEven, type Crop } from './preprocess.js';
export { encodePng } from './encode.js';
