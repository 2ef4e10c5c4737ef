/** Where the vision cases lie: beside the tests, or any folder of the same format. */
import { resolve } from 'node:path';

export const goldenVisionFolder = resolve(process.env['GOLDEN_VISION_DIR'] ?? import.meta.dirname);
