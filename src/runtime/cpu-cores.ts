/**
 * How many threads a run on the CPU uses: one for each physical core.
 *
 * onnxruntime counts cores too, but from processor identifiers that some virtual machines make up: of two cores on a
 * virtual AMD machine it saw one, and ran at half the speed. Linux itself knows better.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';

const CPU_FOLDER = '/sys/devices/system/cpu';

/**
 * Physical cores that this process may use, or undefined where the system does not say: onnxruntime counts then.
 *
 * @param folder Where Linux describes its processors.
 * @param allowed Processors that this process may use, hyperthreads counted.
 */
export function physicalCores(folder = CPU_FOLDER, allowed = availableParallelism()): number | undefined {
  try {
    const processors = readdirSync(folder).filter((name) => /^cpu\d+$/.test(name));
    const cores = new Set(processors.flatMap((name) => siblingsOf(join(folder, name)) ?? []));
    return cores.size === 0 ? undefined : Math.min(cores.size, allowed);
  } catch {
    return undefined; // not Linux
  }
}

/** The processors of one core, as a text that is the same for each of them; undefined for one that is switched off. */
function siblingsOf(folder: string): string | undefined {
  try {
    return readFileSync(join(folder, 'topology', 'thread_siblings_list'), 'utf8').trim();
  } catch {
    return undefined;
  }
}
