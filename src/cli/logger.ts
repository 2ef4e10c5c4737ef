/** Logs of commands go to stderr: stdout carries results alone. */
import { pino } from 'pino';
import type { Logger } from '../common/logger.js';

export function createLogger(level: 'error' | 'warn' | 'info' | 'debug'): Logger {
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ dest: 2, sync: true }),
  );
}
