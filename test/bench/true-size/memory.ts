/** Resident memory of this process and all that it started. Linux only. */
import { readdirSync, readFileSync } from 'node:fs';

const SAMPLE_MS = 50;

/** In megabytes, shared pages counted for every process. */
export function residentMb(root = process.pid): number {
  const parents = new Map(
    readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .map((pid) => [Number(pid), Number(contentOf(pid, 'stat').split(') ').at(-1)?.split(' ')[1])]),
  );
  const isOurs = (pid: number | undefined): boolean =>
    pid !== undefined && pid > 1 && (pid === root || isOurs(parents.get(pid)));
  const kilobytes = [...parents.keys()]
    .filter((pid) => isOurs(pid))
    .map((pid) => Number(/VmRSS:\s+(\d+)/.exec(contentOf(String(pid), 'status'))?.[1] ?? '0'));
  return (kilobytes.reduce((sum, value) => sum + value, 0) * 1024) / 1e6;
}

/** Empty for a process that is gone. */
function contentOf(pid: string, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return '';
  }
}

/** The most that was resident at once while `work` went on. */
export async function withPeak<T>(work: () => Promise<T>): Promise<{ value: T; peakMb: number }> {
  let peakMb = residentMb();
  const sampler = setInterval(() => {
    peakMb = Math.max(peakMb, residentMb());
  }, SAMPLE_MS);
  try {
    return { value: await work(), peakMb };
  } finally {
    clearInterval(sampler);
  }
}
