/** `vision-bridge models`: files by what they are. */
import { Command, Option } from 'commander';
import { InvalidRequestError } from '../../common/errors.js';
import { problemsOf } from '../../common/problems.js';
import { DEFAULT_FIELDS, modelJson } from '../../library/index.js';
import { modelQuerySchema } from '../../protocol/registry.js';
import { MODEL_FIELDS, SORT_FIELDS, type ModelQuery, type ModelRegistry } from '../../registry/index.js';
import { addFlags } from '../options.js';
import { formatBytes, formatCount } from '../output.js';
import { OUTPUT_FORMATS, plainText, printRows, withRegistry, type OutputFormat } from '../registry-session.js';

const TABLE_FIELDS = DEFAULT_FIELDS.filter((field) => field !== 'path');

/** Filters, as the query knows them, and what people are told of each. */
const FILTERS: readonly (readonly [flag: string, description: string])[] = [
  ['--folder <name>', "one of ComfyUI's folder names, or a folder of models/"],
  [
    '--kind <kind>',
    'checkpoint, diffusion_model, lora, vae, text_encoder, clip_vision, controlnet, ipadapter, …; unknown',
  ],
  ['--base <model>', 'base model or its family: sd15, sdxl, flux, wan21, …; unknown'],
  ['--dtype <name>', 'dtype of most parameters: F16, BF16, F8_E4M3, Q8_0, …'],
  ['--container <format>', 'safetensors, gguf, onnx, pickle-zip, pickle-legacy'],
  ['--algorithm <name>', 'of LoRAs: lora, locon, loha, lokr, dora, oft'],
  ['--encoder <name>', 'of encoders: clip-vit-h-14, t5-xxl, …'],
  ['--status <status>', 'ok, incomplete, invalid, unreadable'],
  ['--license <text>', 'part of the licence'],
  ['--text <words>', 'words of name, title or trigger words'],
  ['--min-bytes <number>', 'at least so large'],
  ['--max-bytes <number>', 'at most so large'],
];

/** Filters that choose a value, and the field that has it. */
const FILTERED_FIELDS = {
  folder: 'folder',
  kind: 'kind',
  base: 'base',
  dtype: 'dtype',
  format: 'format',
  algorithm: 'algorithm',
  encoder: 'encoder',
  status: 'status',
} as const;

export function modelsCommand(): Command {
  const command = new Command('models').description('list model files by what they are');
  for (const [flag, description] of FILTERS) command.option(flag, description);
  command
    .addOption(new Option('--sort <field>', 'order').choices(SORT_FIELDS))
    .option('--descending', 'largest, newest or last first')
    .option('--limit <number>', 'at most so many')
    .option('--fields <names>', `comma-separated: ${Object.keys(MODEL_FIELDS).join(', ')}`)
    .addOption(new Option('--format <form>', 'how to print').choices(OUTPUT_FORMATS).default('table'))
    .option('--json', 'one JSON document');
  addFlags(command, ['folders']);
  return command.action(
    async (options: Readonly<Record<string, unknown>> & { format: OutputFormat; json?: boolean }) => {
      const query = modelQuerySchema.safeParse(
        Object.fromEntries(
          Object.entries(options)
            .filter(([name]) => name in modelQuerySchema.shape && name !== 'format')
            .concat(options['container'] === undefined ? [] : [['format', options['container']]])
            .map(([name, value]) => [name, value === true ? 'true' : value]),
        ),
      );
      if (!query.success)
        throw new InvalidRequestError(problemsOf(query.error, (path) => `--${path.join('.')}`).join('; '));
      const fields = fieldsOf(options['fields']);
      await withRegistry(command, ({ registry }) => {
        const { models } = registry.query(query.data);
        if (models.length === 0) explainNothing(registry, query.data);
        const rows = models.map((entry) => modelJson(entry, fields));
        printRows(options.json === true ? 'json' : options.format, fields, rows, (field, value) => {
          if (typeof value !== 'number') return plainText(value);
          return /^size/.test(field) ? formatBytes(value) : field === 'parameters' ? formatCount(value) : value;
        });
        return Promise.resolve();
      });
    },
  );
}

/** Says which filter nothing has, and what there is instead. */
function explainNothing(registry: ModelRegistry, query: ModelQuery): void {
  process.stderr.write('no model matches\n');
  for (const [flag, field] of Object.entries(FILTERED_FIELDS)) {
    const wanted = query[flag as keyof typeof FILTERED_FIELDS];
    if (wanted === undefined || registry.query({ [flag]: wanted }).models.length > 0) continue;
    const known = new Set(registry.entries().map((entry) => MODEL_FIELDS[field]?.(entry) ?? 'unknown'));
    process.stderr.write(`  no ${field} is ${wanted}; here are ${[...known].map(String).sort().join(', ')}\n`);
  }
}

function fieldsOf(text: unknown): readonly string[] {
  if (typeof text !== 'string') return TABLE_FIELDS;
  const fields = text.split(',').map((field) => field.trim());
  const unknown = fields.filter((field) => !Object.hasOwn(MODEL_FIELDS, field));
  if (unknown.length > 0)
    throw new InvalidRequestError(
      `--fields: not known: ${unknown.join(', ')}. Known: ${Object.keys(MODEL_FIELDS).join(', ')}.`,
    );
  return fields;
}
