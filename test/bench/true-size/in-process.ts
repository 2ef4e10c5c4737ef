/** Runs one measurement in a process of its own. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import type { Task } from './row.js';

const ROW = new URL('./row.ts', import.meta.url);

/** @throws {Error} with the error's own line of a measurement that failed. */
export async function inProcess(task: Task): Promise<unknown> {
  const child = fork(ROW, [JSON.stringify(task)], {
    execArgv: ['--import', import.meta.resolve('tsx')],
    stdio: ['ignore', 'inherit', 'pipe', 'ipc'],
  });
  const said = child.stderr === null ? Promise.resolve('') : text(child.stderr);
  const failed = once(child, 'exit').then(async ([code]) => {
    const reason = /^\w*Error: .*$/m.exec(await said)?.[0] ?? '';
    throw new Error(`the measurement ended with ${String(code)}. ${reason}`.trim());
  });
  const [result] = (await Promise.race([once(child, 'message'), failed])) as [unknown];
  await failed.catch(() => undefined);
  return result;
}
