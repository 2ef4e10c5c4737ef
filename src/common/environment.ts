/** The one place that reads environment variables. None is needed to find anything; these only adapt to the machine. */

/** A snapshot of the process environment, for functions that expand `~` and variables as ComfyUI does. */
export function readEnvironment(): Readonly<Record<string, string | undefined>> {
  return process.env;
}
