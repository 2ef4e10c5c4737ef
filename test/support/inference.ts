/** A vision engine over real processes and threads, with a data folder of its own, for tests. */
import { mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '../../src/common/logger.js';
import { createVisionServices, type VisionServices, type VisionServicesOptions } from '../../src/vision-services.js';

export interface TestEngine extends VisionServices {
  readonly dataDirectory: string;
}

/** Features are not kept, unless a bound of the store is given. */
export function startEngine(options: Partial<VisionServicesOptions> = {}): TestEngine {
  const dataDirectory = options.dataDirectory ?? mkdtempSync(join(tmpdir(), 'vision-bridge-data-'));
  const services = createVisionServices({
    dataDirectory,
    maxFeatureBytes: 0,
    idleReleaseMs: 60_000,
    maxPendingCalls: 64,
    logger: silentLogger,
    ...options,
  });
  return {
    ...services,
    dataDirectory,
    async [Symbol.asyncDispose]() {
      await services[Symbol.asyncDispose]();
      if (options.dataDirectory === undefined) await rm(dataDirectory, { recursive: true, force: true });
    },
  };
}
