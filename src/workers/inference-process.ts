/** Entry of the inference process: the operations of the engine rooms, served to the parent. */
import { serveOperations } from '../runtime/index.js';
import {
  createEncodeOperation,
  createQuantizeOperation,
  ENCODE_OPERATION,
  QUANTIZE_OPERATION,
} from '../vision/index.js';

serveOperations({
  [ENCODE_OPERATION]: createEncodeOperation(),
  [QUANTIZE_OPERATION]: createQuantizeOperation(),
});
