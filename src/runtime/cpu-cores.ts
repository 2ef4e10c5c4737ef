/**
 * How many threads a run on the CPU uses: one for each physical core.
 *
 * onnxruntime counts cores too, but from processor identifiers that some virtual machines make up: of two cores on a
 * virtual AMD machine it saw one, and ran at half the speed. Linux itself knows better.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const CPU_FOLDER = '/sys/devices/system/cpu';
const STATUS_FILE = '/proc/self/status';

/**
 * Physical cores that this process may use, or undefined where the system does not say: onnxruntime counts then.
 *
 * @param folder Where Linux describes its processors.
 * @param status Where it says which of them this process may use.
 */
export function physicalCores(folder = CPU_FOLDER, status = STATUS_FILE): number | undefined {
  try {
    const allowed = /^Cpus_allowed_list:\s*(.+)$/m.exec(readFileSync(status, 'utf8'))?.[1] ?? '';
    const siblings = parseList(allowed).flatMap((cpu) => siblingsOf(join(folder, `cpu${cpu}`)) ?? []);
    return new Set(siblings).size || undefined;
  } catch {
    return undefined; // not Linux
  }
}

/** `0-2,5` as [0, 1, 2, 5]. */
function parseList(list: string): number[] {
  return list.split(',').flatMap((range) => {
    const [first = NaN, last = first] = range.split('-').map(Number);
    return Number.isNaN(last) ? [] : Array.from({ length: last - first + 1 }, (_none, i) => first + i);
  });
}

/** The processors of one core, as a text that is the same for each of them; undefined for one that is switched off. */
function siblingsOf(folder: string): string | undefined {
  try {
    return readFileSync(join(folder, 'topology', 'thread_siblings_list'), 'utf8').trim();
  } catch {
    return undefined;
  }
}
