/** Door of adapter/: IP-Adapters by content, and what they make of features. */
export { AdapterEngine, type AdapterFeatures } from './engine.js';
export { createProjectOperation, PROJECT_OPERATION } from './operation.js';
export { createPicturesOperation, PICTURES_OPERATION } from './pictures-operation.js';
export { resolveAdapter, type IPAdapterModel } from './model.js';
