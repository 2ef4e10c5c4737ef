/** `vision-bridge doctor`: what fits what, what is broken; with a workflow, which of its models are missing. */
import { writeFile } from 'node:fs/promises';
import { Command } from 'commander';
import {
  findEncoderIssues,
  findIssues,
  findValueIssues,
  issueJson,
  missingJson,
  pairingJson,
  pairModels,
  readWorkflowFile,
  resolveWorkflow,
  type MissingModels,
  type Pairing,
} from '../../library/index.js';
import { writeJson } from '../../protocol/json.js';
import { addFlags } from '../options.js';
import { formatBytes, printJson, printLine, requireTarget } from '../output.js';
import { createProgressLine, withRegistry, type RegistrySession } from '../registry-session.js';

interface DoctorOptions {
  readonly checkValues?: boolean;
  readonly json?: boolean;
  readonly repaired?: string;
}

export function doctorCommand(): Command {
  const command = new Command('doctor')
    .description('pair adapters with encoders and report what is broken; with a workflow, find its models')
    .argument('[workflow]', 'a workflow: JSON, or a PNG or WebP that carries one')
    .option('--repaired <file>', 'write the workflow with the names that fit here')
    .option('--check-values', 'read all models whole and look for NaN and infinity; what was read before is kept')
    .option('--json', 'one JSON document');
  addFlags(command, ['folders']);
  return command.action(async (workflow: string | undefined, options: DoctorOptions) => {
    requireTarget('--repaired', options.repaired);
    await withRegistry(command, async (session) => {
      if (workflow === undefined) await examine(session, options);
      else await examineWorkflow(session, workflow, options);
    });
  });
}

async function examine({ registry }: RegistrySession, { json, checkValues }: DoctorOptions): Promise<void> {
  const pairs = pairModels(registry.entries());
  const issues = [...findIssues(registry), ...(await findEncoderIssues(registry.entries()))];
  if (checkValues === true) {
    const line = createProgressLine();
    const onProgress = (done: number, total: number): void => {
      line.show(`reading values: ${formatBytes(done)} of ${formatBytes(total)}`);
    };
    issues.push(...(await findValueIssues(registry, registry.entries(), { onProgress })));
    line.clear();
  }
  if (json === true) {
    printJson({ pairs: pairs.map(pairingJson), issues: issues.map(issueJson) });
    return;
  }
  for (const pair of pairs) printPair(pair);
  if (pairs.length > 0 && issues.length > 0) printLine();
  for (const { severity, path, problem, fix } of issues) printLine(`${severity}: ${path}\n  ${problem}\n  ${fix}`);
  if (pairs.length === 0 && issues.length === 0) printLine('Nothing is wrong, as far as headers tell.');
}

function printPair({ adapter, need, matches, mismatches, advice }: Pairing): void {
  const [best] = matches;
  printLine(
    `${adapter.name} (${adapter.row?.variant ?? adapter.row?.kind ?? ''}) needs ${need.label}: ${best?.name ?? 'not found'}`,
  );
  printLine(`  ${advice}`);
  if (best === undefined) for (const { file, reason } of mismatches) printLine(`  not ${file.name}: ${reason}`);
}

async function examineWorkflow({ registry }: RegistrySession, path: string, options: DoctorOptions): Promise<void> {
  const result = resolveWorkflow(await readWorkflowFile(path), registry.entries());
  if (options.repaired !== undefined) {
    await writeFile(options.repaired, writeJson(result.repaired));
    process.stderr.write(`written to ${options.repaired}\n`);
  }
  if (options.json === true) printLine(writeJson(missingJson(result)));
  else printReferences(result);
}

function printReferences({ references, missing, renamed, misplaced, broken }: MissingModels): void {
  for (const { status, name, folder, nodeType, nodeId, file, replacement, problem } of references) {
    const where = `${nodeType} ${nodeId}${folder === undefined ? '' : `, ${folder}`}`;
    const told =
      status === 'renamed'
        ? ` -> ${replacement ?? ''}`
        : status === 'misplaced'
          ? `: it lies in ${file?.path ?? ''}, where this node does not look`
          : '';
    printLine(`${(problem === undefined ? status : 'broken').padEnd(9)} ${name} (${where})${told}`);
    if (problem !== undefined) printLine(`          ${file?.path ?? name}: ${problem}`);
  }
  printLine(
    `${references.length} models: ${missing} missing, ${renamed} under another name, ${misplaced} in another folder, ${broken} broken.`,
  );
}
