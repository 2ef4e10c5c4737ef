/** Door of registry/: what the user's model files are. */
export { hashModel } from './hashes.js';
export { ModelReader } from './read-model.js';
