/**
 * Path arithmetic as Python does it, for POSIX and for Windows, whatever system this runs on.
 *
 * Node's own `path` differs where it matters here: Python keeps two leading slashes, drops trailing separators, and joins
 * drives in its own way. All functions are pure; what they need of the machine is in PathPlatform.
 *
 * Source: the Python 3.11 manual, os.path; checked by the recorded cases in test/golden/paths.
 */

export interface PathRules {
  readonly separator: string;
  isAbsolute(path: string): boolean;
  join(base: string, path: string): string;
  normalize(path: string): string;
  dirname(path: string): string;
}

/** What path rules need to know of a machine. */
export interface PathPlatform {
  readonly kind: 'posix' | 'win32';
  readonly rules: PathRules;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly workingDirectory: string;
  /** Home of a named user, or of the current one where the environment does not tell; undefined when unknown. */
  readonly homeOf: (user: string | undefined) => string | undefined;
}

/** Absolute from the working directory, and normalized. */
export function makeAbsolute(platform: PathPlatform, path: string): string {
  const { rules, workingDirectory, kind } = platform;
  if (kind === 'win32') {
    // `D:x` is relative to the folder that is current on that drive: its root, unless it is our own drive.
    const [drive, rest] = splitDrive(path);
    const isOtherDrive = drive !== '' && drive.toLowerCase() !== splitDrive(workingDirectory)[0].toLowerCase();
    if (isOtherDrive && !isSlash(rest[0])) return rules.normalize(`${drive}\\${rest}`);
  }
  return rules.normalize(rules.join(workingDirectory, path));
}

/** Resolves `.` and `..` among components. `..` above an absolute root vanishes. */
function collapse(components: readonly string[], isRooted: boolean): string[] {
  const kept: string[] = [];
  for (const component of components) {
    if (component === '' || component === '.') continue;
    if (component !== '..') kept.push(component);
    else if (kept.length > 0 && kept.at(-1) !== '..') kept.pop();
    else if (!isRooted) kept.push('..');
  }
  return kept;
}

export const posixRules: PathRules = {
  separator: '/',
  isAbsolute: (path) => path.startsWith('/'),
  join(base, path) {
    if (path.startsWith('/') || base === '') return path;
    return base.endsWith('/') ? base + path : `${base}/${path}`;
  },
  normalize(path) {
    if (path === '') return '.';
    // POSIX lets exactly two leading slashes mean something of their own; three are one.
    const root = path.startsWith('//') && !path.startsWith('///') ? '//' : path.startsWith('/') ? '/' : '';
    const joined = root + collapse(path.split('/'), root !== '').join('/');
    return joined === '' ? '.' : joined;
  },
  dirname(path) {
    const head = path.slice(0, path.lastIndexOf('/') + 1);
    return /^\/*$/.test(head) ? head : head.replace(/\/+$/, '');
  },
};

const isSlash = (character: string | undefined): boolean => character === '\\' || character === '/';

/** Drive (`C:`) or share (`\\server\share`), and the rest. */
export function splitDrive(path: string): [drive: string, rest: string] {
  const normal = path.replaceAll('/', '\\');
  if (normal.startsWith('\\\\') && normal[2] !== '\\') {
    const serverEnd = normal.indexOf('\\', 2);
    if (serverEnd === -1) return ['', path];
    const shareEnd = normal.indexOf('\\', serverEnd + 1);
    if (shareEnd === serverEnd + 1) return ['', path];
    const end = shareEnd === -1 ? path.length : shareEnd;
    return [path.slice(0, end), path.slice(end)];
  }
  return path[1] === ':' ? [path.slice(0, 2), path.slice(2)] : ['', path];
}

export const windowsRules: PathRules = {
  separator: '\\',
  // Python 3.11: a leading separator alone is enough.
  isAbsolute: (path) => isSlash(path[0]) || (path[1] === ':' && isSlash(path[2])),
  join(base, path) {
    let [drive, rest] = splitDrive(base);
    const [otherDrive, otherRest] = splitDrive(path);
    if (isSlash(otherRest[0])) {
      if (otherDrive !== '' || drive === '') drive = otherDrive;
      rest = otherRest;
    } else if (otherDrive !== '' && otherDrive.toLowerCase() !== drive.toLowerCase()) {
      drive = otherDrive;
      rest = otherRest;
    } else {
      if (otherDrive !== '') drive = otherDrive;
      if (rest !== '' && !isSlash(rest.at(-1))) rest += '\\';
      rest += otherRest;
    }
    const needsSeparator = rest !== '' && !isSlash(rest[0]) && drive !== '' && !drive.endsWith(':');
    return drive + (needsSeparator ? '\\' : '') + rest;
  },
  normalize(path) {
    const [drive, rest] = splitDrive(path.replaceAll('/', '\\'));
    const prefix = drive + (rest.startsWith('\\') ? '\\' : '');
    const joined = prefix + collapse(rest.split('\\'), rest.startsWith('\\')).join('\\');
    return joined === '' ? '.' : joined;
  },
  dirname(path) {
    const [drive, rest] = splitDrive(path);
    const end = Math.max(rest.lastIndexOf('\\'), rest.lastIndexOf('/')) + 1;
    const head = rest.slice(0, end);
    return drive + (/^[\\/]*$/.test(head) ? head : head.replace(/[\\/]+$/, ''));
  },
};
