/** The one place that reads environment variables. None is needed to find anything; these only adapt to the machine. */
import { homedir } from 'node:os';
import { join } from 'node:path';

/** The process environment, for functions that expand `~` and variables as ComfyUI does, and for child processes. */
export function readEnvironment(): Readonly<Record<string, string | undefined>> {
  return process.env;
}

/** Where the platform keeps what programs can make again. */
export function cacheDirectory(): string {
  if (process.platform === 'win32') return process.env['LOCALAPPDATA'] ?? join(homedir(), 'AppData', 'Local');
  if (process.platform === 'darwin') return join(homedir(), 'Library', 'Caches');
  return process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache');
}
