/** Entry of the inference process: the operations of the engine rooms, served to the parent. */
import { createProjectOperation, PROJECT_OPERATION } from '../adapter/index.js';
import { serveOperations } from '../runtime/index.js';
import { createEncodeOperation, ENCODE_OPERATION } from '../vision/index.js';

serveOperations({
  [ENCODE_OPERATION]: createEncodeOperation(),
  [PROJECT_OPERATION]: createProjectOperation(),
});
