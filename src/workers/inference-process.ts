/** Entry of the inference process: the operations of the engine rooms, served to the parent. */
import { serveOperations } from '../runtime/index.js';
import { createEncodeOperation, ENCODE_OPERATION } from '../vision/index.js';

serveOperations({ [ENCODE_OPERATION]: createEncodeOperation() });
