/**
 * The logger that rooms are handed. Fields first, then a sentence; pino satisfies it.
 *
 * `error`: an operation was lost; `warn`: degraded, with what to do; `info`: lifecycle and one line per request;
 * `debug`: the rest. Never tensor data, image bytes or prompt contents.
 */
export interface Logger {
  error(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  info(fields: object, message: string): void;
  debug(fields: object, message: string): void;
}

const nothing = (): void => undefined;

/** For library users who want no log. */
export const silentLogger: Logger = { error: nothing, warn: nothing, info: nothing, debug: nothing };
