/** Entry of the server's threads: what they can be asked to do. */
import { serveTasks } from '../runtime/index.js';
import { HASH_FILES_TASK, hashFiles, PREPARE_TASK, preparePictures } from '../vision/index.js';

export default serveTasks({ [PREPARE_TASK]: preparePictures, [HASH_FILES_TASK]: hashFiles });
