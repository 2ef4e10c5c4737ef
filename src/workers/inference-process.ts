/** Entry of the inference process: the operations of the engine rooms, served to the parent. */
import {
  createPicturesOperation,
  createProjectOperation,
  PICTURES_OPERATION,
  PROJECT_OPERATION,
} from '../adapter/index.js';
import { createFacesOperation, FACES_OPERATION } from '../faces/index.js';
import { serveOperations } from '../runtime/index.js';
import { createEncodeOperations, createQuantizeOperation, QUANTIZE_OPERATION } from '../vision/index.js';

serveOperations({
  ...createEncodeOperations(),
  [QUANTIZE_OPERATION]: createQuantizeOperation(),
  [PROJECT_OPERATION]: createProjectOperation(),
  [PICTURES_OPERATION]: createPicturesOperation(),
  [FACES_OPERATION]: createFacesOperation(),
});
