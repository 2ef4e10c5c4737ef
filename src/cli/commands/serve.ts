/** `vision-bridge serve`: the server, until it is told to stop. */
import { once } from 'node:events';
import { Command } from 'commander';
import { createBridge } from '../../bridge.js';
import { startServer } from '../../server/index.js';
import { createLogger } from '../logger.js';
import { addFlags, configOf } from '../options.js';
import { printJson, printLine } from '../output.js';

export function serveCommand(): Command {
  const command = new Command('serve')
    .description('serve vision encoding over the protocol of ComfyUI')
    .option('--json', 'print the address as JSON');
  addFlags(command, ['folders', 'server', 'engine']);
  return command.action(async (options: { json?: boolean }) => {
    const config = configOf(command);
    // Heard from the beginning: who reads the address may tell it to stop at once.
    const stopped = new AbortController();
    const stop = Promise.race(['SIGINT', 'SIGTERM'].map((name) => once(process, name, { signal: stopped.signal })));
    await using bridge = await createBridge(config, createLogger(config.logLevel));
    await using server = await startServer(bridge);
    if (options.json === true) printJson({ url: server.url, port: server.port });
    else printLine(`Vision Bridge listens on ${server.url}`);
    bridge.startBackground();
    await stop;
    stopped.abort();
    bridge.logger.info({ waiting: bridge.queue.remaining }, 'stopping');
    // A second signal does not wait for the running prompt.
    const impatient = new AbortController();
    for (const name of ['SIGINT', 'SIGTERM'] as const) {
      process.once(name, () => {
        impatient.abort();
      });
    }
    const limit = AbortSignal.timeout(config.stopTimeout * 1000);
    await bridge.queue.drain(AbortSignal.any([limit, impatient.signal]));
  });
}
