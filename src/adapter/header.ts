/** The one place that reads an adapter's header: whatever container the file is. */
import { readSafetensorsHeader, type ModelHeader } from '../formats/index.js';

export function readAdapterHeader(path: string, options: { signal?: AbortSignal } = {}): Promise<ModelHeader> {
  return readSafetensorsHeader(path, options);
}
