/**
 * The end of a command that something keeps alive which nobody waits for any more: a call of the system about a folder
 * of a network disk that does not answer. Such a call cannot be ended, and Node waits for the thread that makes it, in
 * `process.exit` as well.
 */

/** Everything that a command opens is closed when it returns; what is written may still be on its way. */
const PATIENCE_MS = 5000;

/** Lets the process end by itself, and ends it by a signal when it does not. */
export function endInTime(): void {
  const timer = setTimeout(() => {
    // Somebody reads slowly what was written.
    if (process.stdout.writableLength > 0 || process.stderr.writableLength > 0) {
      endInTime();
      return;
    }
    const message = 'warning: a disk that does not answer holds a thread of this process, which kills itself to end\n';
    process.stderr.write(message, () => process.kill(process.pid, 'SIGKILL'));
  }, PATIENCE_MS);
  timer.unref();
}
