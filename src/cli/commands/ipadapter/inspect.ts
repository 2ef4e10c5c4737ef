/** `vision-bridge ipadapter inspect`: what adapters are, and which of the user's encoders goes with them. */
import { Command } from 'commander';
import { adapterSummary, findEncoder } from '../../../adapter/index.js';
import { BridgeError, messageOf, type ErrorCode } from '../../../common/errors.js';
import { createLogger } from '../../logger.js';
import { addFlags } from '../../options.js';
import { printJson, printLine } from '../../output.js';
import { printTable } from '../../table.js';
import { locate, openAdapterRooms, type AdapterRooms } from './rooms.js';

type Inspected = { readonly name: string; readonly path: string } & (
  | { readonly summary: ReturnType<typeof adapterSummary>; readonly encoder: string | null; readonly missing?: string }
  | { readonly problem: { readonly code: ErrorCode; readonly message: string } }
);

export function inspectCommand(): Command {
  const command = new Command('inspect')
    .description('tell what IP-Adapters are, by content, and which encoder each wants')
    .argument('[adapter...]', 'names of the ipadapter folder, or paths; default: all of the folder')
    .option('--json', 'one JSON document');
  addFlags(command, ['folders', 'engine']);
  return command.action(async (names: string[], flags: { readonly json?: boolean }) => {
    await using rooms = await openAdapterRooms(command, createLogger('warn'));
    const source = rooms.ipadapter.folders.adapters;
    const results: Inspected[] = [];
    if (names.length === 0)
      for (const { name, path } of await source.list()) results.push(await inspect(rooms, name, path));
    for (const name of names) results.push(await inspectNamed(rooms, name));
    if (flags.json === true) printJson({ folders: source.places(), adapters: results });
    else if (results.length === 0) printLine(`There are no IP-Adapters in ${source.places().join(', ')}.`);
    else show(results);
    const refused = results.find((result) => 'problem' in result);
    // Asked for by name, a file that is none is a failure; in a listing it is a line.
    if (names.length > 0 && refused !== undefined && 'problem' in refused)
      throw new BridgeError(refused.problem.code, refused.problem.message, { details: { path: refused.path } });
  });
}

/** One that is asked for by name; what is wrong with it is told beside the others. */
async function inspectNamed(rooms: AdapterRooms, name: string): Promise<Inspected> {
  try {
    return await inspect(rooms, name, await locate(rooms.ipadapter.folders.adapters, name));
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    return { name, path: name, problem: { code: error.code, message: error.message } };
  }
}

async function inspect({ vision, ipadapter }: AdapterRooms, name: string, path: string): Promise<Inspected> {
  try {
    const model = await ipadapter.adapters.open(path);
    const summary = adapterSummary(model);
    if (model.encoder === undefined) return { name, path, summary, encoder: null };
    try {
      return { name, path, summary, encoder: (await findEncoder(model, ipadapter.folders.encoders, vision)).name };
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      return { name, path, summary, encoder: null, missing: error.message };
    }
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    return { name, path, problem: { code: error.code, message: messageOf(error) } };
  }
}

function show(results: readonly Inspected[]): void {
  printTable(
    ['name', 'what it is', 'tokens', 'wants', 'encoder'],
    results.map((result) =>
      'problem' in result
        ? [result.name, result.problem.code, '', '', '']
        : [
            result.name,
            result.summary.label,
            `${result.summary.tokens ?? 'all'} × ${result.summary.token_width}`,
            result.summary.wants,
            result.encoder ?? (result.missing === undefined ? 'none needed' : 'not found'),
          ],
    ),
  );
  for (const result of results) {
    if ('problem' in result) printLine(`\n${result.problem.message}`);
    else if (result.missing !== undefined) printLine(`\n${result.name}: ${result.missing}`);
  }
}
