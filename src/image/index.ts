/** Door of image/: files and tensors to pixels and back. */
export { decodeImage, toImageTensor, type DecodedImage } from './decode.js';
export { requireFinite } from './finite.js';
export { readImageInput, type ImageInput } from './image-input.js';
export {
  clipResampling,
  flexibleResampling,
  normalize,
  preprocess,
  preprocessToU8,
  resampleToU8,
  roundHalfEven,
  type Crop,
  type Resampling,
} from './preprocess.js';
export { axisMatrix } from './resample.js';
export { encodePng } from './encode.js';
export { encodeChannels, encodePreview, replaceAlpha } from './view.js';
export { checkPixels, upscale, UPSCALE_METHODS } from './upscale.js';
export { inSlices } from './slices.js';
