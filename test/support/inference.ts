/** A vision engine over a real inference process, for tests. */
import { silentLogger } from '../../src/common/logger.js';
import { InferenceProcess, type InferenceProcessOptions } from '../../src/runtime/index.js';
import { VisionEngine } from '../../src/vision/index.js';
import { INFERENCE_PROCESS_ENTRY } from '../../src/workers/index.js';

export interface TestEngine extends AsyncDisposable {
  readonly inference: InferenceProcess;
  readonly engine: VisionEngine;
}

export function startEngine(options: Partial<InferenceProcessOptions> = {}): TestEngine {
  const inference = new InferenceProcess({
    entry: INFERENCE_PROCESS_ENTRY,
    idleReleaseMs: 60_000,
    maxPendingCalls: 64,
    logger: silentLogger,
    ...options,
  });
  return {
    inference,
    engine: new VisionEngine(inference),
    [Symbol.asyncDispose]: () => inference[Symbol.asyncDispose](),
  };
}
