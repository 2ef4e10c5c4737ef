/** Entry of an inference process that counts how often it had time to tidy. */
import { serveOperations, singleOperation } from '../../src/runtime/index.js';

let tidied = 0;
serveOperations({
  tidied: {
    ...singleOperation(() => Promise.resolve(tidied)),
    tidy() {
      tidied += 1;
      return Promise.resolve();
    },
  },
});
