/**
 * `~` and variables in `base_path`, as Python's expanduser and expandvars: one pass, unknown variables stay.
 *
 * Source: the Python 3.11 manual; checked by the recorded cases in test/golden/paths.
 */
import { windowsRules, type PathPlatform } from './path-rules.js';

/** First `~`, then variables: the order of ComfyUI. */
export function expandBasePath(platform: PathPlatform, path: string): string {
  return platform.kind === 'posix'
    ? expandVariablesPosix(platform, expandUserPosix(platform, path))
    : expandVariablesWindows(platform, expandUserWindows(platform, path));
}

function expandUserPosix(platform: PathPlatform, path: string): string {
  if (!path.startsWith('~')) return path;
  const slash = path.indexOf('/');
  const end = slash === -1 ? path.length : slash;
  const user = path.slice(1, end);
  const home = user === '' ? (platform.environment['HOME'] ?? platform.homeOf(undefined)) : platform.homeOf(user);
  if (home === undefined) return path;
  const expanded = home.replace(/\/+$/, '') + path.slice(end);
  return expanded === '' ? '/' : expanded;
}

function expandVariablesPosix(platform: PathPlatform, path: string): string {
  return path.replaceAll(
    /\$(?:([A-Za-z0-9_]+)|\{([^}]*)\})/g,
    (whole, name: string | undefined, braced: string | undefined) => {
      const value = platform.environment[name ?? braced ?? ''];
      return value ?? whole;
    },
  );
}

function expandUserWindows(platform: PathPlatform, path: string): string {
  if (!path.startsWith('~')) return path;
  const slash = path.slice(1).search(/[\\/]/);
  const end = slash === -1 ? path.length : slash + 1;
  let home = windowsVariable(platform, 'USERPROFILE');
  if (home === undefined) {
    const homePath = windowsVariable(platform, 'HOMEPATH');
    if (homePath === undefined) return path;
    home = windowsRules.join(windowsVariable(platform, 'HOMEDRIVE') ?? '', homePath);
  }
  const user = path.slice(1, end);
  if (user !== '' && user !== windowsVariable(platform, 'USERNAME'))
    home = windowsRules.join(windowsRules.dirname(home), user);
  return home + path.slice(end);
}

/** Names without regard to case, as the system has them. */
function windowsVariable(platform: PathPlatform, name: string): string | undefined {
  const wanted = name.toUpperCase();
  const key = Object.keys(platform.environment).find((candidate) => candidate.toUpperCase() === wanted);
  return key === undefined ? undefined : platform.environment[key];
}

/** `'quoted'` stays with its quotes; `%NAME%`, `$NAME`, `${NAME}`; `%%` is `%` and `$$` is `$`. */
const WINDOWS_TOKENS = /'[^']*'?|%%|\$\$|%([^%]*)%|\$\{([^}]*)\}|\$([A-Za-z0-9_-]+)/g;

function expandVariablesWindows(platform: PathPlatform, path: string): string {
  return path.replaceAll(
    WINDOWS_TOKENS,
    (whole, percent: string | undefined, braced: string | undefined, plain: string | undefined) => {
      if (whole === '%%') return '%';
      if (whole === '$$') return '$';
      const name = percent ?? braced ?? plain;
      return (name === undefined ? undefined : windowsVariable(platform, name)) ?? whole;
    },
  );
}
