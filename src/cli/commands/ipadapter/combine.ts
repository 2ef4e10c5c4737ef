/** `vision-bridge ipadapter combine`: several files of embeds as one. */
import { writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import { combineEmbeds, COMBINE_MODES, readEmbeds, serializeEmbeds, type CombineMode } from '../../../adapter/index.js';
import { printJson, printLine, requireTarget } from '../../output.js';
import { parseNumbers } from './numbers.js';

interface CombineFlags {
  readonly method: CombineMode;
  readonly out: string;
  readonly weights?: string;
  readonly json?: boolean;
}

export function combineCommand(): Command {
  return new Command('combine')
    .description('combine files of embeds, ours or .ipadpt of IPAdapter_plus')
    .argument('<embeds...>', 'files of embeds, in order')
    .addOption(new Option('--method <mode>', 'how').choices(COMBINE_MODES).default('concat'))
    .option('--weights <list>', 'a weight per file, such as 1,0.5')
    .requiredOption('--out <file>', 'the .safetensors file to write')
    .option('--json', 'one JSON document')
    .action(async (files: string[], { method, out, weights, json }: CombineFlags) => {
      requireTarget('--out', out);
      const factors = weights === undefined ? undefined : parseNumbers(weights, '--weights');
      const list = await Promise.all(files.map((file) => readEmbeds(resolve(file))));
      const combined = combineEmbeds(list, method, factors);
      await writeFile(out, serializeEmbeds(combined));
      const { shape } = combined.cond.image ?? combined.cond.face ?? { shape: [] };
      if (json === true) printJson({ out, method, files, shape, provenance: combined.provenance });
      else printLine(`${files.length} files, ${method}: [${shape.join(', ')}] written to ${out}`);
    });
}
