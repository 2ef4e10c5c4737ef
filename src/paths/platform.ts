/** The machine that this runs on, as path rules see it. */
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { readEnvironment } from '../common/environment.js';
import { posixRules, windowsRules, type PathPlatform } from './path-rules.js';

export function currentPlatform(): PathPlatform {
  const isWindows = process.platform === 'win32';
  return {
    kind: isWindows ? 'win32' : 'posix',
    rules: isWindows ? windowsRules : posixRules,
    environment: readEnvironment(),
    workingDirectory: process.cwd(),
    homeOf: (user) => (user === undefined ? homedir() : homeInPasswordFile(user)),
  };
}

/** Home of a named user, from the password file; undefined where there is none. */
function homeInPasswordFile(user: string): string | undefined {
  try {
    for (const line of readFileSync('/etc/passwd', 'utf8').split('\n')) {
      const [name, , , , , home] = line.split(':');
      if (name === user) return home;
    }
  } catch {
    // Systems without the file have no other users that a path could name.
  }
  return undefined;
}
