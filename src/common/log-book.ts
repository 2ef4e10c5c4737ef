/**
 * The last lines of the log, kept for clients that show them.
 *
 * Holds what the logger was told at `info` and above: the sentence and the short plain fields. Bounded in entries and in
 * the length of each.
 */
import type { Logger } from './logger.js';

export interface LogEntry {
  /** Local time, ISO form without zone, as ComfyUI writes it. */
  readonly t: string;
  /** The line, with its line break. */
  readonly m: string;
}

const MAX_ENTRIES = 300; // ComfyUI keeps as many
const MAX_LINE_LENGTH = 2000;

export class LogBook {
  readonly #entries: LogEntry[] = [];
  readonly #listeners = new Set<(entry: LogEntry) => void>();

  get entries(): readonly LogEntry[] {
    return this.#entries;
  }

  /** @returns a function that ends the subscription */
  subscribe(listener: (entry: LogEntry) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** A logger that writes to another one, and here. */
  record(logger: Logger): Logger {
    const keep = (fields: object, message: string): void => {
      this.#add(`${message}${describe(fields)}`);
    };
    return {
      error(fields, message) {
        logger.error(fields, message);
        keep(fields, `error: ${message}`);
      },
      warn(fields, message) {
        logger.warn(fields, message);
        keep(fields, `warning: ${message}`);
      },
      info(fields, message) {
        logger.info(fields, message);
        keep(fields, message);
      },
      debug(fields, message) {
        logger.debug(fields, message);
      },
    };
  }

  #add(line: string): void {
    const entry = { t: localTime(new Date()), m: `${line.slice(0, MAX_LINE_LENGTH)}\n` };
    this.#entries.push(entry);
    if (this.#entries.length > MAX_ENTRIES) this.#entries.shift();
    for (const listener of this.#listeners) listener(entry);
  }
}

function describe(fields: object): string {
  const shown = Object.entries(fields).filter(([, value]) => typeof value === 'string' || typeof value === 'number');
  return shown.length === 0 ? '' : ` (${shown.map(([key, value]) => `${key}: ${String(value)}`).join(', ')})`;
}

function localTime(date: Date): string {
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, -1);
}
