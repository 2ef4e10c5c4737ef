/**
 * Looks at folders of network disks without waiting for a server that is gone: a call of the system about such a folder
 * may never return, and nothing can end it.
 *
 * Folders of other disks are looked at directly. On Linux the system's table of mounts tells which is which, and reading
 * it never waits; elsewhere the path has to.
 */
import { readFileSync, statSync } from 'node:fs';
import { Worker } from 'node:worker_threads';

export type PathKind = 'file' | 'folder' | undefined;

/** A disk that sleeps takes seconds to wake up. */
const MAX_WAIT_MS = 5000;
/** A disk that did not answer is not asked again so soon: every question may cost a thread. */
const RETRY_MS = 60_000;
/** One that answered is not asked by way of a thread for so long. */
const TRUSTED_MS = 2000;
const NETWORK_FILE_SYSTEMS = /^(nfs4?|cifs|smb3?|smbfs|ncpfs|afs|ceph|glusterfs|lustre|9p|davfs|autofs|fuse(\..+)?)$/;
const MOUNTS = '/proc/self/mounts';

/** Runs where it may hang: tells what the path is by a number, and wakes who waits for it. */
const LOOK = `
import { statSync } from 'node:fs';
import { workerData } from 'node:worker_threads';
const { path, answer } = workerData;
let kind = 1;
try {
  const stats = statSync(path);
  kind = stats.isFile() ? 2 : stats.isDirectory() ? 3 : 1;
} catch {}
Atomics.store(answer, 0, kind);
Atomics.notify(answer, 0);
`;
const LOOK_ENTRY = new URL(`data:text/javascript,${encodeURIComponent(LOOK)}`);
const KINDS: readonly PathKind[] = [undefined, undefined, 'file', 'folder'];

/** Until when a disk counts as answering, or as silent. */
const disks = new Map<string, { readonly isSilent: boolean; readonly untilMs: number }>();

/** What is at a path, links followed; `silent` for a network disk that does not answer within some seconds. */
export function lookAt(path: string): PathKind | 'silent' {
  const disk = networkDiskOf(path);
  if (disk === undefined) return kindOf(path);
  const known = disks.get(disk);
  if (known !== undefined && known.untilMs > Date.now()) return known.isSilent ? 'silent' : kindOf(path);
  const kind = lookFromThread(path);
  const isSilent = kind === 'silent';
  disks.set(disk, { isSilent, untilMs: Date.now() + (isSilent ? RETRY_MS : TRUSTED_MS) });
  return kind;
}

function lookFromThread(path: string): PathKind | 'silent' {
  const answer = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(LOOK_ENTRY, { execArgv: [], workerData: { path, answer } });
  // Nobody hears of its end: where it hangs it has none.
  worker.on('error', () => undefined);
  Atomics.wait(answer, 0, 0, MAX_WAIT_MS);
  void worker.terminate();
  const kind = Atomics.load(answer, 0);
  return kind === 0 ? 'silent' : KINDS[kind];
}

function kindOf(path: string): PathKind {
  try {
    const stats = statSync(path, { throwIfNoEntry: false });
    return stats?.isFile() === true ? 'file' : stats?.isDirectory() === true ? 'folder' : undefined;
  } catch {
    return undefined; // a component of the path is no folder, or may not be read
  }
}

/** The place of the network disk that a path is on; undefined for a disk of this machine. */
function networkDiskOf(path: string): string | undefined {
  if (process.platform === 'win32') return /^\\\\[^\\]+\\[^\\]+/.exec(path)?.[0];
  if (process.platform === 'darwin') return /^\/Volumes\/[^/]+/.exec(path)?.[0];
  const mount = mounts()
    .filter(({ folder }) => folder === '/' || path === folder || path.startsWith(`${folder}/`))
    // Of two at one place, the later one is on top.
    .reduce((best, next) => (next.folder.length >= best.folder.length ? next : best), { folder: '', type: '' });
  return NETWORK_FILE_SYSTEMS.test(mount.type) ? mount.folder : undefined;
}

function mounts(): { readonly folder: string; readonly type: string }[] {
  try {
    return readFileSync(MOUNTS, 'utf8')
      .split('\n')
      .map((line) => line.split(' '))
      .map(([, folder = '', type = '']) => ({ folder: folder.replace(/\\(\d{3})/g, unescaped), type }));
  } catch {
    return []; // no such table here
  }
}

/** Blanks and the like are octal there. */
function unescaped(_text: string, digits: string): string {
  return String.fromCharCode(parseInt(digits, 8));
}
